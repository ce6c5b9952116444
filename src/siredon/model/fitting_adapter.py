"""An adapter on disk whose numbers can stand in the places of those of an adapter in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from siredon.model.adapter_folder import SETTINGS, START, WEIGHTS, check_adapter
from siredon.model.loftq import ROUNDED

#: Settings of PEFT that decide where an adapter is and how it begins, not what its numbers do.  Where it is, the names
#: of its tensors say.
_NEEDLESS = (
    *("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "task_type"),
    *("init_lora_weights", "init_weights", "eva_config", "corda_config", "loftq_config", "lora_ga_config"),
    *("lora_dropout", "target_modules", "target_parameters", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "ensure_weight_tying"),
)


def read_fitting(adapted: Any, folder: Path) -> dict[str, torch.Tensor] | str:
    """An adapter's tensors by the names that all trained weights of a model have, or why they cannot stand there.

    Args:
        adapted: A model with an adapter of PEFT that is trained, on its device.
        folder: The other adapter.

    Returns:
        Tensors on the device and in the format of the weights whose names they have.

    Raises:
        CheckpointError: The folder holds no whole adapter.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    check_adapter(folder, "Name the folder of an adapter in `reference_adapter`.")
    if any((folder / name).is_file() for name in (START, ROUNDED)):
        return "it belongs to a base that its start changed"
    if setting := _find_difference(adapted, folder):
        return f"its `{setting}` is another"
    written, own = load_file(folder / WEIGHTS), get_peft_model_state_dict(adapted)
    if {name: value.shape for name, value in written.items()} != {
        name: value.shape for name, value in own.items()
    }:
        return "it is on other layers, or of another size"
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    places = {weight.data_ptr(): name for name, weight in trained.items()}
    found = {
        places[tensor.data_ptr()]: written[name]
        for name, tensor in own.items()
        if tensor.data_ptr() in places
    }
    if found.keys() != trained.keys() or len(found) != len(own):
        return "more than an adapter is trained"
    return {name: found[name].to(weight.device, weight.dtype) for name, weight in trained.items()}


def _find_difference(adapted: Any, folder: Path) -> str:
    """The first setting in which two adapters compute otherwise; empty for none."""
    there = json.loads((folder / SETTINGS).read_text())
    # Sets and enums become what they are on disk
    here = json.loads(json.dumps(adapted.peft_config["default"].to_dict(), default=_as_written))
    return next(
        (
            name
            for name, value in here.items()
            if name not in _NEEDLESS and name in there and there[name] != value
        ),
        "",
    )


def _as_written(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
