"""Attention."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import A_HUB_ID, Bool, Float, Section, key, planned


class AttentionSection(Section):
    """Which implementation of attention."""

    attn_implementation: Literal[
        "sdpa",
        "eager",
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
        "flex_attention",
        "xformers",
        "sage",
        "fp8",
    ] = key(
        "Implementation of attention.",
        "sdpa",
        planned_values=(
            A_HUB_ID,
            "xformers",
            "sage",
            "fp8",
        ),
    )
    flex_attn_compile_kwargs: dict[str, Any] | None = planned("Arguments for compiling flex attention.")
    sdpa_varlen: Bool | None = planned("PyTorch's own attention over packed rows of different lengths.")
    large_head_attention: Literal["sdpa", "auto", "triton_flash"] | None = planned(
        "Implementation where a head is wider than 256."
    )
    gemma4_hybrid_attn_impl: Bool | None = planned("Gemma 4: flash attention in windows, SDPA elsewhere.")
    scaling_softmax: Bool | None = planned("Scale scores by the logarithm of the length; needs flex.")
    scaling_softmax_factor: Float | None = planned("Slope of that scale.")
    scaling_softmax_bias: Float | None = planned("Constant added to that scale.")
