"""`adapter: lora`: low-rank adaptation, through PEFT.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import ModelError


def attach_lora_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and puts LoRA beside the chosen layers; LoRA's own weights are fp32.

    Returns:
        The model, wrapped by PEFT.

    Raises:
        ModelError: A name in `lora_target_modules` or `lora_modules_to_save` matches no layer.
    """
    from peft import LoraConfig, get_peft_model

    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    everything = {name for name, _ in model.named_modules()}
    _check_names("lora_target_modules", section.lora_target_modules, everything, linear)
    _check_names("lora_modules_to_save", section.lora_modules_to_save, everything, everything)
    _check_tied(model, section.lora_target_modules)
    names: list[str] | str = list(section.lora_target_modules)
    if section.lora_target_linear:
        names = "all-linear" if not names else sorted({*names, *_linear_names(model, linear)})
    config = LoraConfig(
        r=section.lora_r or 0,
        lora_alpha=section.lora_alpha or 0,
        lora_dropout=section.lora_dropout,
        target_modules=names,
        modules_to_save=list(section.lora_modules_to_save) or None,
        ensure_weight_tying=bool(_tied_names(model, section.lora_modules_to_save)),
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    # PEFT keeps LoRA's own weights in fp32 whatever the base has; what is trained in full beside them too.
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and ".modules_to_save." in name:
            parameter.data = parameter.data.float()
    return adapted


def _linear_names(model: Any, linear: set[str]) -> set[str]:
    head = model.get_output_embeddings()
    skip = {name for name, module in model.named_modules() if module is head}
    return {name.rpartition(".")[2] for name in linear - skip}


def _tied_names(model: Any, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that mean embeddings or head, while the two are one tensor."""
    if not model.config.tie_word_embeddings:
        return []
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {name for name, module in model.named_modules() if any(module is end for end in ends)}
    return [name for name in names if any(full == name or full.endswith(f".{name}") for full in tied)]


def _check_tied(model: Any, names: tuple[str, ...]) -> None:
    tied = _tied_names(model, names)
    if tied:
        raise ModelError(
            f"`lora_target_modules: {tied[0]}`: this model's embeddings and head are one tensor, "
            "and LoRA on one of them could not be merged",
            f"Train it in full: `lora_modules_to_save: [{tied[0]}]`.",
        )


def _check_names(key: str, names: tuple[str, ...], everything: set[str], offered: set[str]) -> None:
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in everything):
            there = sorted({full.rpartition(".")[2] for full in offered if full})
            raise ModelError(
                f"`{key}: {name}` matches no layer of this model",
                f"Its layers: {', '.join(there)}.",
            )


ADAPTER = attach_lora_
