"""Attention."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from siredon.config.attentions import is_hub_id
from siredon.config.fields import Bool, Float, Section, Str, key, planned

#: A kernel on the hub; a branch, a tag or a commit of it may follow.
HubId = Annotated[Str, Field(pattern=r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")]


class AttentionSection(Section):
    """Which implementation of attention."""

    attn_implementation: (
        Literal[
            "sdpa",
            "eager",
            "flash_attention_2",
            "flash_attention_3",
            "flash_attention_4",
            "flex_attention",
            "xformers",
            "sage",
            "fp8",
        ]
        | HubId
    ) = key(
        "Implementation of attention; also a kernel of the hub: `owner/name`, or `owner/name@revision`. `sage` and "
        "`fp8` cannot train.",
        "sdpa",
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

    @property
    def needs_row(self) -> bool:
        """Whether borders of documents are read off a single row only."""
        return self.attn_implementation.startswith("flash_attention")

    @property
    def shortest_row(self) -> int:
        """Least length of the rows of a batch, in tokens.

        For fewer than 128 queries PyTorch takes the kernel by which flex attention decodes, which it does not have in
        fp32 (PyTorch 2.11: "No choices exist for backend"), and of which no block would be smaller anyway.
        """
        return 128 if self.attn_implementation == "flex_attention" else 1

    @property
    def takes_lengths(self) -> bool:
        """Whether documents lie end to end without a mask, so that padding costs more than it does there."""
        return self.needs_row or self.attn_implementation == "xformers" or is_hub_id(self.attn_implementation)
