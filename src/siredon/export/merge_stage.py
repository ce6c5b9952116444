"""An adapter on a model that has no weights: PEFT merges layer after layer, as each gets its weights.

So every sum is made by the code that computed it in training, whatever the kind of adapter: the scale of LoRA and
rsLoRA, ranks by pattern, DoRA's lengths, experts in a stack, layers that were trained in full, rows of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from siredon.errors import ModelError
from siredon.model.adapter_folder import WEIGHTS, load_adapter


@dataclass(frozen=True)
class Change:
    """An adapter, and how much of it.

    Args:
        folder: Its folder.
        weight: What its change of the weights is multiplied by.
    """

    folder: Path
    weight: float = 1.0


class Stage:
    """One adapter on a copy of the model without weights.

    Args:
        model: The model, all of it on PyTorch's device `meta`; it is not changed.
        change: The adapter.
        device: Where its own weights go, and where sums are made.

    Raises:
        CheckpointError: The adapter does not fit the model.
    """

    def __init__(self, model: Any, change: Change, device: str) -> None:
        empty = deepcopy(model)
        self._hole = torch.zeros(1, device=device)
        _set_holes_(empty, self._hole, _list_brought(change.folder))
        adapted = load_adapter(empty, change.folder)
        scale_(adapted, change.weight)
        self._base = adapted.get_base_model()
        for weight in self._base.parameters():
            if weight.numel() and weight.flatten()[0].isnan():  # nothing was copied there
                weight.data = self._hole.expand(weight.shape)
        self._device = device
        self._layers = dict(_find_layers(self._base))
        #: Tensors outside of its layers that the adapter brings, such as biases.
        self._own = {
            name: weight
            for name, weight in self._base.named_parameters()
            if not self._is_empty(weight) and not self.find_layer(name)
        }

    def find_layer(self, name: str) -> str:
        """The layer with an adapter that a tensor of the model is in; empty for none."""
        parts = name.split(".")
        paths = (".".join(parts[:length]) for length in range(1, len(parts)))
        return next((path for path in paths if path in self._layers), "")

    def changes(self, slot: str) -> bool:
        """Whether a layer or tensor is another one afterwards."""
        return slot in self._own or any(_is_in(path, {slot}) for path in self._layers)

    def find_empty(self) -> str:
        """A weight of the adapter that is not in its file, as PEFT draws it anew; empty if there is none."""
        for path, layer in self._layers.items():
            base = {id(weight) for weight in _bottom(layer).parameters()}
            base |= {id(weight) for weight in _bottom(layer).buffers()}
            for name, weight in [*layer.named_parameters(), *layer.named_buffers()]:
                if self._is_empty(weight) and id(weight) not in base:
                    return f"{path}.{name}"
        return ""

    def merge(self, slots: set[str], values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same tensors with the adapter in them.

        Args:
            slots: Layers and tensors that are merged together.
            values: Name in the model -> tensor, in fp32; shared weights under each of their names.

        Returns:
            The same names; weights that are still shared are one tensor.
        """
        values = _move(values, self._device)
        paths = [path for path in self._layers if _is_in(path, slots)]
        plain = [name for name in values if not self.find_layer(name) and name not in self._own]
        filled: dict[int, torch.nn.Parameter] = {}
        for name in plain:
            self._fill_(self._parent(name), name.rpartition(".")[0], {name: values[name]}, filled)
        for path in paths:
            self._fill_(_bottom(self._layers[path]), path, values, filled)
        merged = values | {name: self._own[name].data for name in values if name in self._own}
        whole = {path: _unload(self._layers.pop(path)) for path in paths}
        for path, layer in whole.items():  # When all are merged, as several may share a weight
            merged |= {f"{path}.{name}": value for name, value in layer.state_dict().items()}
            self._parent(path)._modules[path.rpartition(".")[2]] = torch.nn.Identity()  # frees its memory
        for name in plain:
            parts, own = self._parent(name)._parameters, name.rpartition(".")[2]
            weight = parts.get(own)
            if weight is not None:
                merged[name] = weight.data
                parts[own] = None
        return merged

    def _is_empty(self, weight: torch.Tensor) -> bool:
        return weight.is_meta or weight.data_ptr() == self._hole.data_ptr()

    def _fill_(
        self,
        module: torch.nn.Module,
        path: str,
        values: dict[str, torch.Tensor],
        filled: dict[int, torch.nn.Parameter],
    ) -> None:
        """Gives a layer its weights; one tensor that is in several layers stays one."""
        for inner, part in module.named_modules(prefix=path):
            for name, weight in part._parameters.items():
                value = values.get(f"{inner}.{name}")
                if weight is not None and self._is_empty(weight) and value is not None:
                    new = filled.setdefault(id(weight), torch.nn.Parameter(value, requires_grad=False))
                    part._parameters[name] = new
            for name, weight in part._buffers.items():
                if weight is not None and weight.is_meta and f"{inner}.{name}" in values:
                    part._buffers[name] = values[f"{inner}.{name}"]

    def _parent(self, name: str) -> torch.nn.Module:
        parent: torch.nn.Module = self._base.get_submodule(name.rpartition(".")[0])
        return parent


def scale_(adapted: Any, weight: float, name: str = "default") -> None:
    """Multiplies what an adapter adds.

    Args:
        adapted: PEFT's wrapper around a model.
        weight: The factor.
        name: The adapter.

    Raises:
        ModelError: It is no plain LoRA, whose change is not a multiple of anything.
    """
    if weight == 1:
        return
    from peft.tuners.lora import LoraLayer

    check_scalable(adapted.peft_config[name])
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            module.scaling[name] *= weight


def check_scalable(settings: Any) -> None:
    """Only what LoRA adds can be weighted, or added up.

    Raises:
        ModelError: What else this adapter changes.
    """
    from peft import LoraConfig

    if not isinstance(settings, LoraConfig):
        what = f"{settings.peft_type.value}: it does not only add"
    elif settings.use_dora:
        what = "DoRA: it stretches the sum"
    elif settings.modules_to_save or settings.trainable_token_indices or settings.bias != "none":
        what = "LoRA beside weights that were trained in full"
    else:
        return
    raise ModelError(
        f"an adapter is {what}, so it can be neither weighted nor merged together with others",
        "Merge it alone, without a weight.",
    )


def _find_layers(base: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The outermost layers that PEFT has put in, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found = ""
    for path, module in base.named_modules():
        if found and path.startswith(found):
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            found = f"{path}."
            yield path, module


def _bottom(layer: Any) -> torch.nn.Module:
    """The layer of the model inside those of PEFT."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while True:
        if isinstance(layer, BaseTunerLayer):
            layer = layer.get_base_layer()
        elif isinstance(layer, AuxiliaryTrainingWrapper):
            layer = layer.original_module
        else:
            module: torch.nn.Module = layer
            return module


def _is_in(path: str, slots: set[str]) -> bool:
    return any(path == slot or path.startswith(f"{slot}.") for slot in slots)


def _move(values: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """The tensors on a device, one that is there twice as one."""
    moved = {value.data_ptr(): value.to(device) for value in values.values()}
    return {name: moved[value.data_ptr()] for name, value in values.items()}


def _list_brought(folder: Path) -> set[str]:
    """The weights of the model itself in the file of an adapter: biases, resized embeddings, a head that has LoRA."""
    with safe_open(folder / WEIGHTS, "pt") as opened:
        names = opened.keys()
    whole = (name.removeprefix("base_model.model.") for name in names)
    return {re.sub(r"\.(token_adapter|base_layer|original_module)(?=\.)", "", name) for name in whole}


def _set_holes_(model: torch.nn.Module, hole: torch.Tensor, brought: set[str]) -> None:
    """Puts a view of one number in place of every weight: PEFT takes `meta` for where its own weights belong, too.

    Weights that are shared stay so.  What the adapter may bring has memory of its own, in which it is copied
    in place of NaN.
    """
    named = model.named_parameters(remove_duplicate=False)
    own = {id(weight) for name, weight in named if name in brought}
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            is_own = id(weight) in own
            value = hole.expand(weight.shape)
            if is_own:
                value = torch.full(weight.shape, torch.nan, device=hole.device)
            view = torch.nn.Parameter(value, requires_grad=False)
            module._parameters[name] = made.setdefault(id(weight), view)


def _unload(layer: Any) -> torch.nn.Module:
    """The layer of the model with the adapter in it: what `merge_and_unload` of PEFT does with one."""
    from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(layer, AuxiliaryTrainingWrapper | MultiheadAttention | ParamWrapper):
        unloaded: torch.nn.Module = layer.unload_and_optionally_merge_module(
            merge=True, safe_merge=True, adapter_names=None
        )
        return unloaded
    layer.merge(safe_merge=True)
    return _bottom(layer)
