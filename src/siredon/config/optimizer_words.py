"""What the checks know of each optimizer without loading one: its package, and the settings it takes.

`tests/unit/train/test_optimizers.py` holds this against the optimizers themselves.
"""

from __future__ import annotations

import re
from typing import Any

#: Settings that have keys of their own -> those keys.
OWN_KEYS = {
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "betas": "adam_beta1",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "beta3": "adam_beta3",
    "eps": "adam_epsilon",
    "eps2": "adam_epsilon2",
}
_BITSANDBYTES = ("min_8bit_size",)
_BNB_RMSPROP = ("alpha", "momentum", "centered", "min_8bit_size")
_ADEMAMIX = ("alpha", "t_alpha", "t_beta3", "min_8bit_size")
_TORCHAO = ("amsgrad", "block_size", "bf16_stochastic_round")
_OPTIMI = ("decouple_lr", "max_lr", "kahan_sum", "foreach", "triton")
_LOW_RANK = ("rank", "update_proj_gap", "scale", "proj_type")
_APOLLO = ("rank", "update_proj_gap", "scale", "proj_type", "scale_type", "seed")
_ADAFACTOR = ("eps", "clip_threshold", "decay_rate", "beta1")

#: Optimizer -> names of `optim_args`.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "adamw_torch": ("amsgrad", "foreach", "capturable", "differentiable", "maximize"),
    "adamw_torch_fused": ("amsgrad", "capturable", "maximize"),
    "adafactor": _ADAFACTOR,
    "sgd": ("momentum", "dampening", "nesterov", "foreach", "fused", "maximize"),
    "rmsprop": ("alpha", "eps", "momentum", "centered", "foreach", "capturable", "maximize"),
    "adagrad": ("lr_decay", "initial_accumulator_value", "eps", "foreach", "fused", "maximize"),
    "lion": ("decouple_lr", "max_lr", "kahan_sum", "foreach", "triton"),
    "adamw_bf16_sr": (),
    "adamw_torch_4bit": _TORCHAO,
    "adamw_torch_8bit": _TORCHAO,
    "ao_adamw_4bit": _TORCHAO,
    "ao_adamw_8bit": _TORCHAO,
    "ao_adamw_fp8": _TORCHAO,
    "ademamix": _ADEMAMIX,
    "ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_32bit": _ADEMAMIX,
    "paged_ademamix_8bit": _ADEMAMIX,
    "adamw_bnb_8bit": _BITSANDBYTES,
    "adamw_8bit": _BITSANDBYTES,
    "paged_adamw_32bit": _BITSANDBYTES,
    "paged_adamw_8bit": _BITSANDBYTES,
    "lion_8bit": _BITSANDBYTES,
    "lion_32bit": _BITSANDBYTES,
    "paged_lion_32bit": _BITSANDBYTES,
    "paged_lion_8bit": _BITSANDBYTES,
    "rmsprop_bnb": _BNB_RMSPROP,
    "rmsprop_bnb_8bit": _BNB_RMSPROP,
    "rmsprop_bnb_32bit": _BNB_RMSPROP,
    "galore_adamw": _LOW_RANK,
    "galore_adamw_8bit": _LOW_RANK,
    "galore_adafactor": _LOW_RANK,
    "galore_adamw_layerwise": _LOW_RANK,
    "galore_adamw_8bit_layerwise": _LOW_RANK,
    "galore_adafactor_layerwise": _LOW_RANK,
    "q_galore_adamw8bit": (),
    "apollo_adamw": _APOLLO,
    "apollo_adamw_layerwise": _APOLLO,
    "lomo": (),
    "adalomo": _ADAFACTOR,
    "schedule_free_radam": ("r", "weight_lr_power", "foreach", "silent_sgd_phase"),
    "schedule_free_adamw": ("r", "weight_lr_power", "foreach"),
    "schedule_free_sgd": ("momentum", "r", "weight_lr_power", "foreach"),
    "stable_adamw": _OPTIMI,
    "optimi_adamw": _OPTIMI,
    "adopt_adamw": ("weight_decouple", "fixed_decay", "foreach", "maximize"),
    "flash_adamw": ("decouple_lr", "quantize", "master_weight_bits", "check_numerics", "foreach", "maximize"),
    "came_pytorch": ("weight_decouple", "fixed_decay", "clip_threshold", "ams_bound", "foreach", "maximize"),
    "muon": ("momentum", "nesterov", "ns_steps", "ns_coefficients", "adjust_lr_fn"),
    "dion": (),
}
_PACKAGES = (
    (("adamw_torch_4bit", "adamw_torch_8bit", "ao_"), "torchao"),
    (
        (
            "ademamix",
            "paged_",
            "adamw_bnb_8bit",
            "adamw_8bit",
            "lion_",
            "rmsprop_bnb",
            "galore_adamw_8bit",
            "q_galore",
        ),
        "bitsandbytes",
    ),
    (("schedule_free_",), "schedulefree"),
    (("stable_adamw", "optimi_"), "optimi"),
    (("adopt_adamw", "came_pytorch", "flash_adamw"), "pytorch_optimizer"),
)
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_WHOLE = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def find_package(name: str) -> str | None:
    """The optional package, as it is imported, that an optimizer is made of."""
    if name == "lion":
        return "optimi"
    return next((package for starts, package in _PACKAGES if name.startswith(starts)), None)


def read_arguments(value: str | dict[str, Any] | None) -> dict[str, Any]:
    """Arguments written as a mapping or as `name=value,...`, as values.

    Raises:
        ValueError: A part of the text has no `=`, or a name twice.
    """
    if value is None:
        return {}
    if isinstance(value, dict):
        return {name: _read_argument(item) for name, item in value.items()}
    result: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in value.split(","))):
        name, _, text = (piece.strip() for piece in part.partition("="))
        if not name or not text:
            raise ValueError(f"`{part}` is not `name=value`")
        if name in result:
            raise ValueError(f"`{name}` is set twice")
        result[name] = _read_argument(text)
    return result


def _read_argument(value: Any) -> Any:
    """`"2"` -> 2, `"1e-3"` -> 0.001, `"True"` -> true; other text stays text; a list is a tuple."""
    if isinstance(value, list):
        return tuple(_read_argument(item) for item in value)
    if not isinstance(value, str):
        return value
    if _WHOLE.fullmatch(value):
        return int(value)
    if _NUMBER.fullmatch(value):
        return float(value)
    return _WORDS.get(value.lower(), value)
