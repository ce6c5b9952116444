"""Several GPUs: FSDP, DeepSpeed, shared sequences and Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.config.idle import find_idle_keys, find_useless_keys, keys_but, keys_set
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.distributed import DeepspeedSection, DistributedSection, FsdpSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.freezing import FreezingSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.precision import PrecisionSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.sections.ray import RaySection


def has_fsdp(fsdp: FsdpSection) -> bool:
    """Whether weights are sharded by FSDP."""
    return fsdp.fsdp_config is not None or bool(fsdp.fsdp)


def fsdp_key(fsdp: FsdpSection) -> str:
    """The key that switches FSDP on."""
    return "fsdp_config" if fsdp.fsdp_config is not None else "fsdp"


def fsdp_generation(fsdp: FsdpSection) -> int | None:
    """Which FSDP shards the weights; none if none does."""
    if not has_fsdp(fsdp):
        return None
    nested = fsdp.fsdp_config.fsdp_version if fsdp.fsdp_config else None
    return fsdp.fsdp_version or nested or 1


def _check_backend(fsdp: FsdpSection, deepspeed: DeepspeedSection) -> Iterator[Finding]:
    """Weights are sharded by FSDP or by DeepSpeed, not by both."""
    if deepspeed.deepspeed and has_fsdp(fsdp):
        key = fsdp_key(fsdp)
        yield Finding(key, f"`deepspeed` and `{key}` exclude each other", "Keep one of them.")


def _check_deepcompile(deepspeed: DeepspeedSection) -> Iterator[Finding]:
    """`deepcompile` is a part of DeepSpeed."""
    if deepspeed.deepcompile and not deepspeed.deepspeed:
        message = "`deepcompile: true` needs `deepspeed`"
        yield Finding(
            "deepcompile", message, "Add `deepspeed` with a file of its settings, or remove the key."
        )


def _check_version(fsdp: FsdpSection) -> Iterator[Finding]:
    """One version says which FSDP shards the weights.

    Without it FSDP1 is taken, as Axolotl does; PyTorch goes on with FSDP2 only.
    """
    nested = fsdp.fsdp_config.fsdp_version if fsdp.fsdp_config else None
    given = {"fsdp_version": fsdp.fsdp_version, "fsdp_config.fsdp_version": nested}
    for name, version in given.items():
        if version not in (None, 1, 2):
            yield Finding(name, f"`{name}: {version}`: there are FSDP 1 and 2", "Write 2.")
            return
    if fsdp.fsdp_version and nested and fsdp.fsdp_version != nested:
        message = f"`fsdp_version: {fsdp.fsdp_version}` contradicts `fsdp_config.fsdp_version: {nested}`"
        yield Finding("fsdp_config.fsdp_version", message, "Remove the one in `fsdp_config`.")
    if not has_fsdp(fsdp):
        yield from find_idle_keys(fsdp, ("fsdp_version",), "`fsdp_config`")
    elif not fsdp.fsdp_version and not nested:
        key = fsdp_key(fsdp)
        message = f"`{key}` without `fsdp_version` is FSDP1, which PyTorch is giving up"
        yield Finding(key, message, "Add `fsdp_version: 2`.", "warning")


def _check_wrapping(fsdp: FsdpSection) -> Iterator[Finding]:
    """Sharding by size says how many weights are sharded as one."""
    config = fsdp.fsdp_config
    if config is None:
        return
    if config.auto_wrap_policy != "SIZE_BASED_WRAP":
        needed = "`auto_wrap_policy: SIZE_BASED_WRAP`"
        yield from find_idle_keys(config, ("min_num_params",), needed, "fsdp_config.")
    elif config.min_num_params is None:
        yield Finding(
            "fsdp_config.auto_wrap_policy",
            "`auto_wrap_policy: SIZE_BASED_WRAP` needs `min_num_params`",
            "Add `min_num_params: 100000000` to `fsdp_config`, for example.",
        )


def _check_pinning(fsdp: FsdpSection) -> Iterator[Finding]:
    """RAM that holds shards is left unpinned by FSDP2 only.

    `cpu_offload_pin_memory: false` speaks of the RAM that `offload_params` uses.
    """
    config = fsdp.fsdp_config
    if config is None or config.cpu_offload_pin_memory:
        return
    if fsdp_generation(fsdp) != 2 or not config.offload_params:
        yield Finding(
            "fsdp_config.cpu_offload_pin_memory",
            "`cpu_offload_pin_memory: false` needs FSDP2 and `offload_params: true`",
            "Add `fsdp_version: 2` and `offload_params: true`, or remove the key.",
        )


def _check_norms(precision: PrecisionSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Norms that stay in float32 are not sharded by FSDP1.

    FSDP1 lays weights of a layer end to end in one tensor, which has one number format.
    """
    if not precision.fp32_norms:
        yield from find_idle_keys(precision, ("fp32_norm_classes",), "`fp32_norms: true`")
    elif fsdp_generation(fsdp) == 1:
        fix = "Write `fsdp_version: 2`, or remove `fp32_norms`."
        yield Finding("fp32_norms", "`fp32_norms: true` does not work with FSDP1", fix)


def _check_shards(distributed: DistributedSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """GPUs that share one copy of the weights do it by FSDP."""
    if (distributed.dp_shard_size or 1) > 1 and not has_fsdp(fsdp):
        yield Finding(
            "dp_shard_size",
            f"`dp_shard_size: {distributed.dp_shard_size}` needs `fsdp_config`",
            "Add `fsdp_version: 2` and `fsdp_config`, or remove the key.",
        )


def _check_memory(placement: PlacementSection) -> Iterator[Finding]:
    """The memory of a GPU has one limit."""
    if placement.max_memory is not None and placement.gpu_memory_limit is not None:
        message = "`max_memory` and `gpu_memory_limit` exclude each other"
        yield Finding("gpu_memory_limit", message, "Keep one of them.")


def _check_loading(quantization: QuantizationSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Weights in MXFP4 are read by every process.

    They are unpacked while they are read, so one process cannot send them on.
    """
    config = fsdp.fsdp_config
    sends = config is not None and config.cpu_ram_efficient_loading
    if sends and quantization.model_quantization_config == "Mxfp4Config":
        yield Finding(
            "fsdp_config.cpu_ram_efficient_loading",
            "`cpu_ram_efficient_loading` does not work with `model_quantization_config: Mxfp4Config`",
            "Remove `cpu_ram_efficient_loading`.",
        )


def _check_partial(freezing: FreezingSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Where some weights are frozen, FSDP1 keeps the model's own parameters.

    Otherwise it lays frozen and trained weights of a layer into one tensor, which is either.
    """
    names = ("unfrozen_parameters", "spectrum_top_fraction", "freeze_layers")
    found = keys_set(freezing, names)
    keeps = fsdp.fsdp_config is not None and fsdp.fsdp_config.use_orig_params
    if found and fsdp_generation(fsdp) == 1 and not keeps:
        yield Finding(
            found[0],
            f"`{found[0]}` with FSDP1 needs `use_orig_params: true`",
            "Write `fsdp_version: 2`, or add `use_orig_params: true` to `fsdp_config`.",
        )


_WITH_REFERENCE = ("dpo", "ipo", "kto", "orpo")


def _check_few_bits(
    preference: PreferenceSection, quantization: QuantizationSection, fsdp: FsdpSection
) -> Iterator[Finding]:
    """Preference methods on weights in few bits do not run under FSDP2.

    They are known to fail; Axolotl refuses them, too.
    """
    found = keys_set(quantization, ("load_in_4bit", "load_in_8bit"))
    if found and fsdp_generation(fsdp) == 2 and preference.rl in _WITH_REFERENCE:
        yield Finding(
            found[0],
            f"`{found[0]}: true` does not work with `rl: {preference.rl}` under FSDP2",
            "Use `deepspeed` in place of FSDP, or whole weights.",
        )


def _uses_zero3(settings: str | dict[str, Any] | None) -> bool:
    if isinstance(settings, dict):
        zero = settings.get("zero_optimization")
        return isinstance(zero, dict) and zero.get("stage") == 3
    return "zero3" in (settings or "")


def _check_zero3(
    adapter: AdapterSection, memory: MemorySection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """QLoRA under ZeRO 3 recomputes activations reentrantly.

    Weights that ZeRO 3 has dropped since the forward pass have another shape when they are recomputed, which
    PyTorch's other way of recomputing takes for an error.
    """
    reentrant = memory.gradient_checkpointing_kwargs.get("use_reentrant", False)
    recomputes = memory.gradient_checkpointing and not reentrant
    if adapter.adapter == "qlora" and recomputes and _uses_zero3(deepspeed.deepspeed):
        yield Finding(
            "gradient_checkpointing",
            "`gradient_checkpointing` may fail with QLoRA under ZeRO 3",
            "Add `gradient_checkpointing_kwargs: {use_reentrant: true}`.",
            "warning",
        )


def _check_reentrant(
    preference: PreferenceSection,
    adapter: AdapterSection,
    memory: MemorySection,
    distributed: DistributedSection,
    fsdp: FsdpSection,
    deepspeed: DeepspeedSection,
) -> Iterator[Finding]:
    """With QLoRA on several GPUs, preference methods do not recompute activations reentrantly.

    They are known to fail; Axolotl refuses them, too.
    """
    several = (
        distributed.ddp or (distributed.dp_replicate_size or 1) > 1 or has_fsdp(fsdp) or deepspeed.deepspeed
    )
    reentrant = memory.gradient_checkpointing and memory.gradient_checkpointing_kwargs.get("use_reentrant")
    if preference.rl and adapter.adapter == "qlora" and several and reentrant:
        yield Finding(
            "gradient_checkpointing_kwargs.use_reentrant",
            f"`use_reentrant: true` does not work with QLoRA and `rl: {preference.rl}` on several GPUs",
            "Set `use_reentrant: false`.",
        )


_FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


def _check_sequences(
    distributed: DistributedSection,
    attention: AttentionSection,
    experts: ExpertSection,
    packing: PackingSection,
    batch: BatchSection,
) -> Iterator[Finding]:
    """Sequences are shared between GPUs by flash attention, one pack at a time.

    The ring for unpacked rows does not know where a document in a pack ends.  `use_glm_dsa_kernels` brings an
    attention of its own.
    """
    if (distributed.context_parallel_size or 1) <= 1 or experts.use_glm_dsa_kernels:
        return
    size = f"`context_parallel_size: {distributed.context_parallel_size}`"
    if attention.attn_implementation not in _FLASH:
        yield Finding(
            "context_parallel_size",
            f"{size} needs flash attention",
            f"Add `attn_implementation: {_FLASH[0]}`.",
        )
    if packing.sample_packing and batch.micro_batch_size > 1:
        yield Finding(
            "micro_batch_size",
            f"{size} with `sample_packing` takes one pack at a time",
            "Set `micro_batch_size: 1`, and raise `gradient_accumulation_steps` in its place.",
        )
    if packing.sample_packing and distributed.ring_attn_func == "batch_ring":
        yield Finding(
            "ring_attn_func",
            "`ring_attn_func: batch_ring` lets packed documents see each other",
            "Use `varlen_llama3`.",
        )


def _check_idle(distributed: DistributedSection, ray: RaySection) -> Iterator[Finding]:
    """Settings of shared sequences and of Ray come with what they set.

    Alone they have no effect.
    """
    ring = ("ring_attn_func", "heads_k_stride")
    if (distributed.context_parallel_size or 1) <= 1:
        yield from find_idle_keys(distributed, ring, "`context_parallel_size: 2` or more")
    elif distributed.ring_attn_func == "batch_ring":
        why = "with `ring_attn_func: batch_ring`"
        yield from find_useless_keys(distributed, ("heads_k_stride",), why)
    if not ray.use_ray:
        yield from find_idle_keys(ray, keys_but(RaySection, "use_ray"), "`use_ray: true`")


_FSDP2 = "fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n"
_FSDP1 = "fsdp_version: 1\nfsdp_config:\n  offload_params: true\n"
_QLORA = "adapter: qlora\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_ON_SEVERAL = _QLORA + "ddp: true\ngradient_checkpointing: true\n"
_SHARED = "context_parallel_size: 2\nattn_implementation: flash_attention_2\n"
_ZERO3 = _QLORA + "deepspeed: deepspeed_configs/zero3.json\ngradient_checkpointing: true\n"

RULES = (
    Rule(
        "SD0372",
        _check_pinning,
        wrong="fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n  cpu_offload_pin_memory: false",
        right="fsdp_version: 2\nfsdp_config:\n  offload_params: true\n  cpu_offload_pin_memory: false",
    ),
    Rule(
        "SD0346",
        _check_backend,
        wrong=_FSDP2 + "deepspeed: deepspeed_configs/zero2.json",
        right="deepspeed: deepspeed_configs/zero2.json",
    ),
    Rule(
        "SD0347",
        _check_deepcompile,
        wrong="deepcompile: true",
        right="deepcompile: true\ndeepspeed: deepspeed_configs/zero2.json",
    ),
    Rule(
        "SD0348",
        _check_version,
        wrong="fsdp_config:\n  reshard_after_forward: true",
        right=_FSDP2,
    ),
    Rule(
        "SD0349",
        _check_wrapping,
        wrong=_FSDP2 + "  auto_wrap_policy: SIZE_BASED_WRAP",
        right=_FSDP2 + "  auto_wrap_policy: SIZE_BASED_WRAP\n  min_num_params: 100000000",
    ),
    Rule("SD0350", _check_norms, wrong=_FSDP1 + "fp32_norms: true", right=_FSDP2 + "fp32_norms: true"),
    Rule("SD0351", _check_shards, wrong="dp_shard_size: 2", right=_FSDP2 + "dp_shard_size: 2"),
    Rule(
        "SD0352",
        _check_memory,
        wrong="gpu_memory_limit: 20GiB\nmax_memory:\n  cpu: 20GiB",
        right="gpu_memory_limit: 20GiB",
    ),
    Rule(
        "SD0353",
        _check_loading,
        wrong=_FSDP2 + "  cpu_ram_efficient_loading: true\nmodel_quantization_config: Mxfp4Config",
        right=_FSDP2 + "model_quantization_config: Mxfp4Config",
    ),
    Rule(
        "SD0354",
        _check_partial,
        wrong=_FSDP1 + "unfrozen_parameters: [lm_head]",
        right=_FSDP1 + "  use_orig_params: true\nunfrozen_parameters: [lm_head]",
    ),
    Rule("SD0355", _check_few_bits, wrong=_QLORA + _FSDP2 + "rl: dpo", right=_QLORA + _FSDP2),
    Rule(
        "SD0356",
        _check_zero3,
        wrong=_ZERO3,
        right=_ZERO3 + "gradient_checkpointing_kwargs:\n  use_reentrant: true",
    ),
    Rule(
        "SD0357",
        _check_reentrant,
        wrong=_ON_SEVERAL + "rl: dpo\ngradient_checkpointing_kwargs:\n  use_reentrant: true",
        right=_ON_SEVERAL + "rl: dpo\ngradient_checkpointing_kwargs:\n  use_reentrant: false",
    ),
    Rule("SD0358", _check_sequences, wrong="context_parallel_size: 2", right=_SHARED),
    Rule("SD0359", _check_idle, wrong="heads_k_stride: 2", right=_SHARED + "heads_k_stride: 2"),
)
