"""Fused kernels."""

from __future__ import annotations

from siredon.config.fields import Bool, Section, key, planned


class KernelSection(Section):
    """Parts of a model that run as one kernel."""

    use_kernels: Bool | None = planned("Take kernels from the hub where they fit the model.")
    lora_mlp_kernel: Bool | None = planned("LoRA fused into feed-forward layers.")
    lora_qkv_kernel: Bool | None = planned("LoRA fused into query, key and value.")
    lora_o_kernel: Bool | None = planned("LoRA fused into attention's output.")
    lora_embedding_kernel: Bool | None = planned("LoRA fused into the embedding.")
    fused_attn_kernel: Bool | None = planned("Normalize and rotate queries and keys at once (Qwen 3).")
    flash_attn_fuse_mlp: Bool | None = planned("SwiGLU by the kernel of flash-attn.")


class LigerSection(Section):
    """Kernels of Liger."""

    liger_rope: Bool | None = planned("Rotary positions.")
    liger_rms_norm: Bool | None = planned("RMS normalization.")
    liger_rms_norm_gated: Bool | None = planned("RMS normalization with a gate.")
    liger_layer_norm: Bool | None = planned("Layer normalization.")
    liger_glu_activation: Bool | None = planned("Gated activations: SwiGLU and GeGLU.")
    liger_cross_entropy: Bool | None = planned("Cross-entropy over logits.")
    liger_fused_linear_cross_entropy: Bool | None = key(
        "Another name for `chunked_cross_entropy: true`; Liger's kernel is not used.", None
    )
    liger_use_token_scaling: Bool | None = planned("Each token's loss weighs by the probability it has.")
