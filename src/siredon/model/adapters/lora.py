"""`adapter: lora`: low-rank adaptation, through PEFT.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import as_peft, build_settings, wrap_
from siredon.model.loftq import start_loftq_
from siredon.model.lora_fit import check_fit, fit_transposed, fit_tying
from siredon.model.targets import find_targets


def attach_lora_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and puts LoRA on the chosen layers; what is trained is fp32.

    Returns:
        The model, wrapped by PEFT.

    Raises:
        ModelError: A name that matches nothing in this model, or a setting that its layers do not allow.
    """
    from peft import LoraConfig

    targets = find_targets(model, section)
    check_fit(model, section, targets)
    start = section.peft_init_lora_weights
    tokens = section.peft_trainable_token_indices
    settings = {
        "r": section.lora_r or 0,
        "lora_alpha": section.lora_alpha or 0,
        "lora_dropout": section.lora_dropout,
        "target_modules": as_peft(targets.short) if targets.modules else [],
        "target_parameters": list(targets.short_parameters) or None,
        "modules_to_save": list(section.lora_modules_to_save) or None,
        "ensure_weight_tying": fit_tying(model, section),
        "fan_in_fan_out": fit_transposed(model, section, targets),
        "bias": section.lora_bias,
        "rank_pattern": dict(section.lora_rank_pattern or {}),
        "alpha_pattern": dict(section.lora_alpha_pattern or {}),
        "use_dora": bool(section.peft_use_dora),
        "use_rslora": bool(section.peft_use_rslora),
        "init_lora_weights": True if start is None else start,
        "layer_replication": [tuple(pair) for pair in section.peft_layer_replication or ()] or None,
        "trainable_token_indices": _as_lists(tokens) if tokens else None,
        **{name: value for name, value in section.peft.items() if name != "loftq_config"},
    }
    if start == "eva":
        settings.setdefault("eva_config", {})
    adapted = wrap_(model, build_settings(section, LoraConfig, settings), section)
    if section.rounds_base:
        start_loftq_(adapted)
    return adapted


def _as_lists(
    tokens: tuple[int, ...] | dict[str, tuple[int, ...]],
) -> list[int] | dict[str, list[int]]:
    if isinstance(tokens, dict):
        return {name: list(ids) for name, ids in tokens.items()}
    return list(tokens)


ADAPTER = attach_lora_
