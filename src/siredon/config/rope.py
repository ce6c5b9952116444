"""Rotary positions in `model_config`: the names that they go by, and the kinds of scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Where `model_config` sets them; `rope_theta` alone is the base frequency.
KEYS = ("rope_scaling", "rope_parameters", "rope_theta")

#: Kind of scaling -> what it needs beside, and what else it takes.  `default` scales nothing.
#: Source: `RopeParameters` of transformers.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ("original_max_position_embeddings",)),
    "yarn": (
        ("factor",),
        (
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "longrope": (
        ("short_factor", "long_factor"),
        ("factor", "original_max_position_embeddings", "attention_factor"),
    ),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor"),
        ("original_max_position_embeddings",),
    ),
    "proportional": ((), ("factor",)),
}
#: What every kind takes.
SHARED = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section")


def changes_positions(overrides: Mapping[str, Any]) -> bool:
    """Whether `model_config` changes rotary positions."""
    return any(overrides.get(name) is not None for name in KEYS)


def read_rope(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary positions in `model_config` under one spelling; `type` is `rope_type`'s old name."""
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = overrides.get(name)
        if isinstance(part, Mapping):
            found |= part
    if "type" in found:
        found.setdefault("rope_type", found.pop("type"))
    if overrides.get("rope_theta") is not None:
        found.setdefault("rope_theta", overrides["rope_theta"])
    return found
