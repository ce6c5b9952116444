"""What every adapter of PEFT has: layers that are found in the model, settings, and weights in fp32."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import ModelError
from siredon.model.score_head import name_task
from siredon.model.targets import Targets, find_targets, tied_names

#: Warnings of PEFT about what is dealt with here, or is right as it is.
_NEEDLESS = (
    "Using Rank-Stabilized LoRA with rank_pattern",  # `adapter_folder.free_of_start_` scales each pattern
    "lora with eva initialization used with low_cpu_mem_usage=False",
    "Failed to load the CUDA extension",  # BOFT then computes with PyTorch,
    "Setting boft_n_butterfly_factor to 1",  # which it always is
    # PEFT's own, of stacked experts, which are no modules: of the user's patterns each matches one
    "The following rank_pattern keys did not match",
    "The following alpha_pattern keys did not match",
)


@contextmanager
def without_needless_warnings() -> Iterator[None]:
    """Keeps those warnings of PEFT away that are about nothing."""
    with warnings.catch_warnings():
        for start in _NEEDLESS:
            warnings.filterwarnings("ignore", message=start, category=Warning)
        yield


def attach_peft_(model: Any, section: AdapterSection, config_class: Any, **settings: Any) -> Any:
    """Freezes the model and puts an adapter of PEFT on the layers that the config names.

    Args:
        model: A model of transformers.
        section: Which layers; the settings in `peft:` are those of `config_class`.
        config_class: PEFT's class of settings.
        settings: What holds where `peft:` does not say otherwise.

    Returns:
        The model, wrapped by PEFT.

    Raises:
        ModelError: A name that matches no layer, or settings that PEFT refuses.
    """
    targets = find_targets(model, section)
    _check_saved(model, section)
    known = {field.name for field in dataclasses.fields(config_class)}
    if "fan_in_fan_out" in known:
        settings = {"fan_in_fan_out": holds_transposed(model, targets), **settings}
    if section.lora_modules_to_save:
        settings["modules_to_save"] = list(section.lora_modules_to_save)
    settings = {"target_modules": as_peft(targets.short), **settings, **section.peft}
    return wrap_(model, build_settings(section, config_class, settings), section)


def build_settings(section: AdapterSection, config_class: Any, settings: dict[str, Any]) -> Any:
    """PEFT's settings of an adapter for a language model.

    Raises:
        ModelError: PEFT refuses a value.
    """
    try:
        with without_needless_warnings():
            return config_class(task_type="CAUSAL_LM", **settings)
    except (ValueError, TypeError) as error:
        raise _explain(section, error) from error


def wrap_(model: Any, config: Any, section: AdapterSection) -> Any:
    """The model with the adapter; what is trained is fp32, unless the config says otherwise.

    Raises:
        ModelError: PEFT cannot put this adapter on these layers.
    """
    from peft import get_peft_model

    config.task_type = name_task(model)
    in_fp32 = section.peft_autocast_adapter_dtype
    try:
        with without_needless_warnings():
            adapted = get_peft_model(model, config, autocast_adapter_dtype=in_fp32)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise _explain(section, error) from error
    if in_fp32:
        upcast_trained_(adapted)
    return adapted


def upcast_trained_(adapted: Any) -> None:
    """Holds all that is trained in fp32: PEFT does so with adapters, and not with layers and biases beside them."""
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def holds_transposed(model: Any, targets: Targets) -> bool:
    """Whether the layers hold their weight as [in, out], as those of GPT-2 do."""
    from transformers.pytorch_utils import Conv1D

    return bool(targets.modules) and isinstance(model.get_submodule(targets.modules[0]), Conv1D)


def as_peft(names: str | tuple[str, ...]) -> str | list[str]:
    """Names as PEFT takes them."""
    return names if isinstance(names, str) else list(names)


def _check_saved(model: Any, section: AdapterSection) -> None:
    tied = tied_names(model, section.lora_modules_to_save)
    if tied:
        raise ModelError(
            f"`lora_modules_to_save: {tied[0]}`: this model's embeddings and head are one tensor, "
            f"which PEFT keeps so with LoRA only, not with `adapter: {section.adapter}`",
            "Remove the name, or use `adapter: lora`.",
        )


def _explain(section: AdapterSection, error: Exception) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return ModelError(
        f"`adapter: {section.adapter}`: PEFT cannot attach it: {reason}",
        "Change what it names: a setting in `peft:`, or the layers in `lora_target_modules`.",
    )
