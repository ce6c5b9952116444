"""Number formats."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Section, StrList, key, planned


class PrecisionSection(Section):
    """Formats of weights and of arithmetic."""

    bf16: Bool | Literal["auto", "full"] = key(
        "bfloat16 weights and mixed-precision steps; `auto` where the hardware has it.",
        "auto",
        planned_values=("full",),
    )
    fp16: Bool = key("float16 mixed-precision steps, on a GPU.", False)
    tf32: Bool | Literal["auto"] = key("TensorFloat-32 matrix products on a GPU that has them.", "auto")
    bfloat16: Bool | None = planned("Everything in bfloat16, the optimizer's state too.")
    float16: Bool | None = planned("Everything in float16, the optimizer's state too.")
    float32: Bool | None = planned("Everything in float32.")
    fp8: Bool | None = planned("Matrix products in 8-bit floats, by torchao.")
    fp8_enable_fsdp_float8_all_gather: Bool | None = planned("Send sharded weights as 8-bit floats (FSDP2).")
    fp32_norms: Bool | None = planned("Normalization layers stay in float32 (FSDP2).")
    fp32_norm_classes: StrList | None = planned("Parts of class names that count as normalization.")
