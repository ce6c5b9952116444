"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, keys_asking, keys_but, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.experts import ExpertParallelSection, ExpertSection
from siredon.config.sections.kernels import KernelSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.quantization import QuantizationSection


def _check_rounding(
    experts: ExpertSection, adapter: AdapterSection, quantization: QuantizationSection
) -> Iterator[Finding]:
    """Experts that are rounded as they are read have an adapter, a number of bits, and LoRA on their tensors.

    Stacked experts are bare tensors, not linear layers: `lora_target_linear` does not find them, and would leave
    experts without an adapter in a file that asks for one everywhere.
    """
    if not experts.quantize_moe_experts:
        return
    if adapter.adapter not in ("lora", "qlora"):
        message = "`quantize_moe_experts: true` needs `adapter: qlora`, or `lora`"
        yield Finding("quantize_moe_experts", message, "Add it, or remove `quantize_moe_experts`.")
    if not (quantization.load_in_4bit or quantization.load_in_8bit):
        message = "`quantize_moe_experts: true` needs `load_in_4bit` or `load_in_8bit`"
        yield Finding("quantize_moe_experts", message, "Add `load_in_4bit: true`, or remove the key.")
    if adapter.lora_target_linear:
        yield Finding(
            "lora_target_linear",
            "`lora_target_linear` does not work with `quantize_moe_experts`",
            "Use `lora_target_modules` for layers, and `lora_target_parameters` for experts.",
        )


def _check_beside(
    experts: ExpertSection, memory: MemorySection, compile: CompileSection
) -> Iterator[Finding]:
    """Rounded experts stay where they were read, and are widened outside of compiled code.

    `layer_offloading` frees and fills the memory behind each weight, and a rounded stack has several pieces of it;
    `torch_compile` has no code for them.
    """
    if not experts.quantize_moe_experts:
        return
    for name, is_on in (
        ("layer_offloading", memory.layer_offloading),
        ("torch_compile", compile.torch_compile),
    ):
        if is_on:
            message = f"`{name}` does not work with `quantize_moe_experts`"
            yield Finding(name, message, f"Remove `{name}`.")


def _check_recomputing(
    experts: ExpertSection, adapter: AdapterSection, memory: MemorySection
) -> Iterator[Finding]:
    """LoRA on rounded experts comes with gradient checkpointing.

    The sum of experts and LoRA is in 16 bits, and is kept for the backward pass: without checkpointing that of every
    layer is, which is the model in 16 bits again.
    """
    if experts.quantize_moe_experts and adapter.lora_target_parameters and not memory.gradient_checkpointing:
        yield Finding(
            "lora_target_parameters",
            "the experts of all layers are kept in 16 bits from the forward to the backward pass",
            "Add `gradient_checkpointing: true`.",
            severity="warning",
        )


_FUSED = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")


def _check_merging(
    experts: ExpertSection, adapter: AdapterSection, kernels: KernelSection
) -> Iterator[Finding]:
    """Training against the rounding of a merge runs on SonicMoE, with LoRA that is not fused.

    SonicMoE is what rounds the sum of weights and LoRA in each forward pass; a fused kernel never has that sum.
    """
    if not experts.nvfp4_merge_aware:
        if experts.nvfp4_merge_aware_start_step is not None:
            message = "`nvfp4_merge_aware_start_step` needs `nvfp4_merge_aware: true`"
            yield Finding("nvfp4_merge_aware_start_step", message, "Add it, or remove the key.")
        return
    for is_there, needed in (
        (experts.expert_backend == "sonicmoe", "expert_backend: sonicmoe"),
        (adapter.adapter == "lora", "adapter: lora"),
    ):
        if not is_there:
            message = f"`nvfp4_merge_aware: true` needs `{needed}`"
            yield Finding("nvfp4_merge_aware", message, f"Write `{needed}`, or remove the key.")
    for name in keys_asking(kernels, _FUSED):
        message = f"`{name}: true` does not work with `nvfp4_merge_aware`"
        yield Finding(name, message, f"Remove `{name}`.")


def _check_idle(experts: ExpertSection, expert_parallel: ExpertParallelSection) -> Iterator[Finding]:
    """Settings of experts come with what they set.

    Alone they have no effect.
    """
    if not experts.dsv4_fp4_grouped_mode:
        yield from find_idle_keys(experts, ("moe_grouped_backend",), "`dsv4_fp4_grouped_mode: nvfp4`")
    if not experts.quantize_moe_experts:
        parts = ("moe_dequant_chunk_size", "moe_bnb_fast")
        yield from find_idle_keys(experts, parts, "`quantize_moe_experts: true`")
    if expert_parallel.expert_parallel_size <= 1:
        names = keys_but(ExpertParallelSection, "expert_parallel_size")
        yield from find_idle_keys(expert_parallel, names, "`expert_parallel_size: 2` or more")


_BACKENDS = ("scattermoe", "sonicmoe")
_BUILT_IN = ("eager", "batched_mm", "grouped_mm")


def _check_backend(experts: ExpertSection) -> Iterator[Finding]:
    """`experts_implementation` and `expert_backend` name the same kernels.

    Axolotl takes plain loops, silently, where only the first names ScatterMoE or SonicMoE.
    """
    name, backend = experts.experts_implementation, experts.expert_backend
    wants = name in _BACKENDS and backend != name
    refuses = name in _BUILT_IN and backend in _BACKENDS
    if wants or refuses:
        right = name if wants else backend
        message = f"`experts_implementation: {name}` contradicts `expert_backend: {backend}`"
        if backend is None:
            message = f"`experts_implementation: {name}` needs `expert_backend: {name}`"
        yield Finding("experts_implementation", message, f"Write `expert_backend: {right}` alone.")


def _check_deepseek(experts: ExpertSection, adapter: AdapterSection) -> Iterator[Finding]:
    """With the kernels for DeepSeek-V4, LoRA is on experts only.

    The layers that choose what is attended to get no gradient there, so LoRA on them would learn nothing.
    """
    names = [
        name
        for name, is_on in (
            ("lora_target_modules", adapter.lora_target_modules),
            ("lora_target_linear", adapter.lora_target_linear),
        )
        if is_on
    ]
    if experts.use_dsv4_kernels and adapter.adapter and names:
        verb = "does" if len(names) == 1 else "do"
        yield Finding(
            names[0],
            f"{list_keys(names)} {verb} not work with `use_dsv4_kernels`",
            "Use `lora_target_parameters` with the tensors of the experts.",
        )


def _check_grouped(experts: ExpertSection) -> Iterator[Finding]:
    """Grouped products with 4-bit experts are trained in NVFP4 only."""
    mode = experts.dsv4_fp4_grouped_mode
    if mode is not None and mode != "nvfp4":
        message = f"`dsv4_fp4_grouped_mode: {mode}` has no backward pass"
        yield Finding("dsv4_fp4_grouped_mode", message, "Write `nvfp4`, or remove the key.")


def _check_format(experts: ExpertSection) -> Iterator[Finding]:
    """What is no expert has one format.

    `gemma4_fp8_nonexpert` and `gemma4_nf4_nonexpert` are older words for two values of
    `nonexpert_quantization`.
    """
    asked = {
        "nonexpert_quantization": experts.nonexpert_quantization,
        "gemma4_fp8_nonexpert": "fp8_blockwise" if experts.gemma4_fp8_nonexpert else None,
        "gemma4_nf4_nonexpert": "nf4" if experts.gemma4_nf4_nonexpert else None,
    }
    found = {name: value for name, value in asked.items() if value is not None}
    if len(set(found.values())) > 1:
        names = list(found)
        fix = "Keep `nonexpert_quantization` alone."
        yield Finding(names[-1], f"{list_keys(names)} contradict each other", fix)


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_modules: [q_proj]\n"
_QLORA = _LORA.replace("lora\n", "qlora\n", 1) + "load_in_4bit: true\n"
_PACKED = _QLORA + "lora_target_parameters: [experts.down_proj]\nquantize_moe_experts: true\n"
_RECOMPUTED = "gradient_checkpointing: true\n"
_AWARE = _LORA + "nvfp4_merge_aware: true\n"

RULES = (
    Rule(
        "SD0360",
        _check_rounding,
        wrong=_QLORA + "lora_target_linear: true\nquantize_moe_experts: true",
        right=_PACKED + _RECOMPUTED,
    ),
    Rule(
        "SD0720",
        _check_beside,
        wrong=_QLORA + "quantize_moe_experts: true\nlayer_offloading: true\ngradient_checkpointing: true",
        right=_QLORA + "quantize_moe_experts: true\ngradient_checkpointing: true",
    ),
    Rule("SD0721", _check_recomputing, wrong=_PACKED, right=_PACKED + _RECOMPUTED),
    Rule("SD0361", _check_merging, wrong=_AWARE, right=_AWARE + "expert_backend: sonicmoe"),
    Rule(
        "SD0362",
        _check_idle,
        wrong="moe_grouped_backend: marlin",
        right="moe_grouped_backend: marlin\ndsv4_fp4_grouped_mode: nvfp4",
    ),
    Rule(
        "SD0363",
        _check_backend,
        wrong="experts_implementation: scattermoe",
        right="experts_implementation: scattermoe\nexpert_backend: scattermoe",
    ),
    Rule(
        "SD0364",
        _check_deepseek,
        wrong=_LORA + "use_dsv4_kernels: true",
        right=_LORA + "use_dsv4_kernels: false",
    ),
    Rule(
        "SD0365",
        _check_grouped,
        wrong="dsv4_fp4_grouped_mode: fp8",
        right="dsv4_fp4_grouped_mode: nvfp4",
    ),
    Rule(
        "SD0366",
        _check_format,
        wrong="gemma4_fp8_nonexpert: true\ngemma4_nf4_nonexpert: true",
        right="nonexpert_quantization: nf4",
    ),
)
