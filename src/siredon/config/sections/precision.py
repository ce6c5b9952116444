"""Number formats."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Section, StrList, key, planned


class PrecisionSection(Section):
    """Formats of weights and of arithmetic."""

    bf16: Bool | Literal["auto", "full"] = key(
        "bfloat16 weights and mixed-precision steps; `auto` where the hardware has it, `full` is `bfloat16: true`.",
        "auto",
    )
    fp16: Bool = key("float16 mixed-precision steps, on a GPU.", False)
    tf32: Bool | Literal["auto"] = key("TensorFloat-32 matrix products on a GPU that has them.", "auto")
    bfloat16: Bool | None = key("Everything in bfloat16, adapters and the optimizer's state too.", None)
    float16: Bool | None = key("Everything in float16, adapters and the optimizer's state too.", None)
    float32: Bool | None = key("Everything in float32.", None)
    fp8: Bool | None = key(
        "Matrix products of the layers in 8-bit floats, by torchao, on a GPU that has them.", None
    )
    fp8_enable_fsdp_float8_all_gather: Bool | None = planned("Send sharded weights as 8-bit floats (FSDP2).")
    fp32_norms: Bool | None = key("Normalization layers are held and computed in float32.", None)
    fp32_norm_classes: StrList | None = key(
        "Parts of class names that count as normalization; default `RMSNorm` and `LayerNorm`.", None
    )

    @property
    def pure(self) -> Literal["bfloat16", "float16", "float32"] | None:
        """The one format of everything, if the file asks for one."""
        if self.bfloat16 or self.bf16 == "full":
            return "bfloat16"
        if self.float16:
            return "float16"
        return "float32" if self.float32 else None
