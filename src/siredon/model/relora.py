"""ReLoRA: the adapter is merged into the base, and begins anew; many small steps make a change of high rank.

Source: Lialin et al., "ReLoRA: High-Rank Training Through Low-Rank Updates", 2023,
https://arxiv.org/abs/2307.05695.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch

from siredon.errors import CheckpointError, ModelError

#: Weights under the adapter as restarts have made them; in every checkpoint of such a run.
RELORA = "relora.safetensors"
_ADAPTER = "default"


def find_lora_layers(base: Any) -> dict[str, Any]:
    """The layers of a model that have LoRA, by name.

    Raises:
        ModelError: LoRA is on something else than a linear layer.
    """
    from peft.tuners.lora import Linear, LoraLayer

    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        if not isinstance(layer, Linear):
            raise ModelError(
                f"`relora: true` merges linear layers only; `{name}` is a {type(layer.get_base_layer()).__name__}",
                "Take it out of `lora_target_modules`, or remove `relora`.",
            )
    return layers


def merge_(base: Any, *, in_ram: bool) -> None:
    """Adds each layer's LoRA to the weight under it, in fp32, and rounds once to the weight's own format.

    Args:
        base: A model of transformers with LoRA in it.
        in_ram: Compute on the CPU, one layer at a time.
    """
    with torch.no_grad():
        for layer in find_lora_layers(base).values():
            weight = layer.get_base_layer().weight
            weight.copy_(_merged(layer, torch.device("cpu") if in_ram else weight.device))


def begin_anew_(base: Any, *, seed: int, restart: int) -> None:
    """Gives LoRA its start values: A uniform as in a linear layer, B zero, so that the model computes the same.

    Args:
        base: A model of transformers with LoRA in it.
        seed: The run's seed.
        restart: Number of the restart; with the seed it decides the values, on every rank alike.
    """
    chance = torch.Generator().manual_seed(_mix(seed, restart))
    with torch.no_grad():
        for layer in find_lora_layers(base).values():
            first, second = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
            start = torch.empty(first.shape, dtype=torch.float32)
            torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=chance)
            first.copy_(start)
            second.zero_()


def list_lora_weights(base: Any) -> list[torch.nn.Parameter]:
    """LoRA's own weights, in the order of the model."""
    return [
        part[_ADAPTER].weight
        for layer in find_lora_layers(base).values()
        for part in (layer.lora_A, layer.lora_B)
    ]


def prune_(
    optimizer: Any,
    weights: list[torch.nn.Parameter],
    method: Literal["magnitude", "random", "reset"],
    ratio: float,
    *,
    chance: torch.Generator,
) -> None:
    """Clears a part of what an optimizer remembers of some weights.

    All that it remembers of a value of the weight is cleared together.  A mean of gradients that is kept without
    the mean of their squares would be divided by next to nothing, in a step thousands of times too long.

    Args:
        optimizer: Any optimizer of PyTorch, as far as its state has the shape of the weights.
        weights: Whose state.
        method: `magnitude` clears where the mean gradient is smallest, `random` anywhere, `reset` drops all of the
            state, the count of steps included.
        ratio: How much is cleared, 0 to 1; not asked for `reset`.
        chance: Source of `random`, the same on every rank.
    """
    for weight in weights:
        if method == "reset":
            optimizer.state.pop(weight, None)
            continue
        state = {
            name: value
            for name, value in optimizer.state.get(weight, {}).items()
            if torch.is_tensor(value) and value.shape == weight.shape and value.is_floating_point()
        }
        if state:
            first = state.get("exp_avg", next(iter(state.values())))
            cleared = _choose_cleared(first, method, ratio, chance)
            for value in state.values():
                value.masked_fill_(cleared, 0)


def _choose_cleared(value: torch.Tensor, method: str, ratio: float, chance: torch.Generator) -> torch.Tensor:
    """Where state is cleared, of the shape of the weight."""
    if method == "random":
        return (torch.rand(value.shape, generator=chance) < ratio).to(value.device)
    count = int(ratio * value.numel())
    order = value.abs().flatten().argsort(stable=True)
    cleared = torch.zeros(value.numel(), dtype=torch.bool, device=value.device)
    cleared[order[:count]] = True
    return cleared.reshape(value.shape)


def build_chance(seed: int, restart: int) -> torch.Generator:
    """Random numbers of a restart, other ones than those of its start values."""
    return torch.Generator().manual_seed(_mix(seed, restart) + 1)


def list_base_weights(base: Any) -> dict[str, torch.Tensor]:
    """The weights under the adapter, by the names of their layers."""
    return {name: layer.get_base_layer().weight.detach() for name, layer in find_lora_layers(base).items()}


def read_base_(base: Any, folder: Path) -> None:
    """Puts the weights under the adapter back as a checkpoint has them.

    Raises:
        CheckpointError: It does not have them, or others.
    """
    from safetensors.torch import load_file

    path = folder / RELORA
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint of a run with `relora: true`: {RELORA} is missing",
            "Name a checkpoint of such a run, or start anew.",
        )
    tensors, layers = load_file(path), find_lora_layers(base)
    if tensors.keys() != layers.keys():
        other = sorted(tensors.keys() ^ layers.keys())[0]
        raise CheckpointError(
            f"{path} is of an adapter on other layers, such as `{other}`",
            "Set `lora_target_modules` and `lora_target_linear` back, or start anew.",
        )
    with torch.no_grad():
        for name, layer in layers.items():
            layer.get_base_layer().weight.copy_(tensors[name])


def collect_whole(base: Any) -> dict[str, torch.Tensor]:
    """The model with its adapter merged, as tensors of a plain model, in RAM; the model stays as it is."""
    layers = find_lora_layers(base)
    merged = {
        f"{name}.weight": _merged(layer, torch.device("cpu")).to(layer.get_base_layer().weight.dtype)
        for name, layer in layers.items()
    }
    trained = f".modules_to_save.{_ADAPTER}."
    there, whole = base.state_dict(), {}
    for name, tensor in there.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(trained, ".")
        # What is trained in full beside LoRA is fp32; the model on disk has one format
        dtype = there[name.replace(trained, ".original_module.")].dtype
        whole[plain] = merged[plain] if plain in merged else tensor.detach().cpu().to(dtype)
    return whole


def _merged(layer: Any, device: torch.device) -> torch.Tensor:
    """`W + scaling * B A` in fp32, of the shape of the weight."""
    first, second = (part[_ADAPTER].weight.to(device).float() for part in (layer.lora_A, layer.lora_B))
    change = (second @ first) * layer.scaling[_ADAPTER]
    weight: torch.Tensor = layer.get_base_layer().weight.to(device).float()
    merged: torch.Tensor = weight + (change.T if layer.fan_in_fan_out else change)
    return merged


def _mix(seed: int, restart: int) -> int:
    return (seed * 1_000_003 + restart) * 2
