"""Fused kernels."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from siredon.config.fields import Bool, Section, key, list_words, planned

#: What can be computed by a fused kernel; also the files of `model/kernels/`.
Word = Literal["attention", "rms_norm", "layer_norm", "rope", "glu", "lora_linear"]

#: In the order in which they are laid over a model: those whose pieces others fuse come before these.
WORDS: tuple[Word, ...] = get_args(Word)

Words = Annotated[
    tuple[Word, ...],
    BeforeValidator(list_words, json_schema_input_type=str | tuple[str, ...]),
]


class KernelSection(Section):
    """Parts of a model that run as one kernel."""

    kernels: Bool | Literal["auto"] | Words = key(
        "Fused kernels: `auto` takes those that help on this machine, a list takes these and no others, `false` none.",
        "auto",
    )
    use_kernels: Bool | None = planned("Take kernels from the hub where they fit the model.")
    lora_mlp_kernel: Bool | None = key(
        "LoRA fused into feed-forward layers (`lora_linear`); `false` leaves them as they are.", None
    )
    lora_qkv_kernel: Bool | None = key(
        "LoRA fused into query, key and value (`lora_linear`); `false` leaves them as they are.", None
    )
    lora_o_kernel: Bool | None = key(
        "LoRA fused into attention's output (`lora_linear`); `false` leaves it as it is.", None
    )
    lora_embedding_kernel: Bool | None = planned("LoRA fused into the embedding.")
    fused_attn_kernel: Bool | None = planned("Normalize and rotate queries and keys at once (Qwen 3).")
    flash_attn_fuse_mlp: Bool | None = planned("SwiGLU by the kernel of flash-attn.")

    @property
    def listed(self) -> dict[str, bool | None]:
        """Kernel -> asked for, ruled out, or left to the machine."""
        if self.kernels == "auto":
            asked = [switch for switch in self.lora_parts.values() if switch is not None]
            lora = None if not asked else any(asked)
            return {word: lora if word == "lora_linear" else None for word in WORDS}
        if isinstance(self.kernels, bool):
            return dict.fromkeys(WORDS, self.kernels)
        return {word: word in self.kernels for word in WORDS}

    @property
    def lora_parts(self) -> dict[str, bool | None]:
        """Part of a layer -> whether its LoRA is fused; None leaves it to `kernels`."""
        return {"mlp": self.lora_mlp_kernel, "qkv": self.lora_qkv_kernel, "o": self.lora_o_kernel}


class LigerSection(Section):
    """Kernels, by the names that Liger has for them."""

    liger_rope: Bool | None = key("Rotary positions fused; the same as `rope` among `kernels`.", None)
    liger_rms_norm: Bool | None = key("RMS norms fused; the same as `rms_norm` among `kernels`.", None)
    liger_rms_norm_gated: Bool | None = planned("RMS normalization with a gate.")
    liger_layer_norm: Bool | None = key("Layer norms fused; the same as `layer_norm` among `kernels`.", None)
    liger_glu_activation: Bool | None = key(
        "SwiGLU and GeGLU fused; the same as `glu` among `kernels`.", None
    )
    liger_cross_entropy: Bool | None = planned("Cross-entropy over logits.")
    liger_fused_linear_cross_entropy: Bool | None = key(
        "Another name for `chunked_cross_entropy: true`; Liger's kernel is not used.", None
    )
    liger_use_token_scaling: Bool | None = planned("Each token's loss weighs by the probability it has.")

    @property
    def named(self) -> dict[str, bool | None]:
        """Kernel -> what its name in Liger says of it."""
        return {
            "rope": self.liger_rope,
            "rms_norm": self.liger_rms_norm,
            "layer_norm": self.liger_layer_norm,
            "glu": self.liger_glu_activation,
        }
