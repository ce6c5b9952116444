"""Mixtures of experts."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, key, planned


class ExpertSection(Section):
    """How the experts of a layer are computed and stored."""

    experts_implementation: (
        Literal[
            "eager",
            "batched_mm",
            "grouped_mm",
            "deepgemm",
            "scattermoe",
            "sonicmoe",
            "deep_ep",
            "deep_ep_scattermoe",
            "deep_ep_sonicmoe",
        ]
        | None
    ) = key(
        "How transformers multiplies experts; default what the model says.",
        None,
        planned_values=(
            "deepgemm",
            "scattermoe",
            "sonicmoe",
            "deep_ep",
            "deep_ep_scattermoe",
            "deep_ep_sonicmoe",
        ),
    )
    llama4_linearized_experts: Bool | None = planned("Llama 4 with its experts as single linear layers.")
    quantize_moe_experts: Bool = key("Round stacked experts to few bits as they are read, too.", False)
    dense_mixer: Bool | None = planned("DenseMixer: every expert takes part in the router's gradient.")
    expert_backend: Literal["scattermoe", "sonicmoe", "eager", "builtin"] | None = planned(
        "Kernels that multiply experts and their LoRA."
    )
    moe_grouped_backend: Literal["auto", "marlin", "cutlass", "deepgemm"] | None = planned(
        "Library of grouped products with quantized experts."
    )
    moe_dequant_chunk_size: Int | None = planned("Experts that are widened to 16 bits at a time.")
    moe_bnb_fast: Bool = planned("Widen all 4-bit experts in one launch.", True)
    nonexpert_quantization: Literal["none", "bf16", "fp8_blockwise", "nf4"] | None = planned(
        "Format of what is no expert."
    )
    nvfp4_merge_aware: Bool | None = planned("Train against the rounding that a merge to NVFP4 will do.")
    nvfp4_merge_aware_start_step: Float | None = planned("Step from which it does, or a fraction of the run.")
    use_dsv4_kernels: Bool | None = planned("Kernels for DeepSeek-V4.")
    use_glm_dsa_kernels: Bool | None = planned("Kernels for the sparse attention of GLM.")
    dsv4_fp8_nonexpert_mode: Literal["float8tensor", "bf16"] | None = planned(
        "DeepSeek-V4: format of 8-bit weights that are no experts."
    )
    dsv4_fp8_lora_kernel: Bool | None = planned("DeepSeek-V4: LoRA fused with 8-bit products.")
    dsv4_shared_mlp_lora_kernel: Bool | None = planned("DeepSeek-V4: LoRA fused into the shared expert.")
    dsv4_bf16_all: Bool | None = planned("DeepSeek-V4: every weight in bfloat16.")
    dsv4_fp4_grouped_mode: Str | None = planned("DeepSeek-V4: format of 4-bit experts; `nvfp4`.")
    gemma4_fp8_nonexpert: Bool | None = planned("Gemma 4: 8-bit floats for what is no expert.")
    gemma4_nf4_nonexpert: Bool | None = planned("Gemma 4: NF4 for what is no expert.")


class ExpertParallelSection(Section):
    """Experts spread over GPUs."""

    expert_parallel_size: Int = planned("GPUs that share the experts of a layer.", 1, ge=1)
    expert_parallel_backend: Literal["deep_ep"] = planned("Library that sends out the tokens.", "deep_ep")
    expert_parallel_num_nvl_bytes: Int = planned("Buffer between GPUs of one host, in bytes.", 268_435_456)
    expert_parallel_num_rdma_bytes: Int = planned("Buffer between hosts, in bytes.", 0)
    expert_parallel_token_capacity: Int | None = planned("Most tokens that one expert takes.")
    expert_parallel_fallback_on_unsupported: Bool = planned("Go on without it where it cannot run.", True)
