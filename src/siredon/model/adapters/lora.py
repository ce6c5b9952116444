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
    names: list[str] | str = list(section.lora_target_modules)
    if section.lora_target_linear:
        names = "all-linear" if not names else sorted({*names, *_linear_names(model, linear)})
    config = LoraConfig(
        r=section.lora_r or 0,
        lora_alpha=section.lora_alpha or 0,
        lora_dropout=section.lora_dropout,
        target_modules=names,
        modules_to_save=list(section.lora_modules_to_save) or None,
        ensure_weight_tying=_saves_tied_weights(model, section.lora_modules_to_save),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _linear_names(model: Any, linear: set[str]) -> set[str]:
    head = model.get_output_embeddings()
    skip = {name for name, module in model.named_modules() if module is head}
    return {name.rpartition(".")[2] for name in linear - skip}


def _saves_tied_weights(model: Any, names: tuple[str, ...]) -> bool:
    """Whether embeddings or head are trained in full while they are one tensor, and must stay one."""
    if not model.config.tie_word_embeddings:
        return False
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {name for name, module in model.named_modules() if any(module is end for end in ends)}
    return any(full == name or full.endswith(f".{name}") for full in tied for name in names)


def _check_names(key: str, names: tuple[str, ...], everything: set[str], offered: set[str]) -> None:
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in everything):
            there = sorted({full.rpartition(".")[2] for full in offered if full})
            raise ModelError(
                f"`{key}: {name}` matches no layer of this model",
                f"Its layers: {', '.join(there)}.",
            )


ADAPTER = attach_lora_
