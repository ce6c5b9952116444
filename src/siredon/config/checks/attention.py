"""Attention, the loss, and kernels that stand in for parts of a model."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.attentions import KNOWN_OWNER, find_need, is_hub_id
from siredon.config.checks.distributed import fsdp_generation
from siredon.config.idle import find_idle_keys, find_useless_keys, keys_asking, keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.distributed import DistributedSection, FsdpSection
from siredon.config.sections.kernels import KernelSection, LigerSection
from siredon.config.sections.loss import LossSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.online import OnlineSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.precision import PrecisionSection
from siredon.config.sections.quantization import QuantizationSection


def _check_scaling(attention: AttentionSection) -> Iterator[Finding]:
    """Scores scaled by the length need flex attention.

    No other implementation lets the scores be changed.
    """
    if attention.scaling_softmax and attention.attn_implementation != "flex_attention":
        yield Finding(
            "scaling_softmax",
            f"`scaling_softmax: true` does not work with `{attention.attn_implementation}` attention",
            "Write `attn_implementation: flex_attention`, or remove `scaling_softmax`.",
        )


def _check_idle(attention: AttentionSection, packing: PackingSection, loss: LossSection) -> Iterator[Finding]:
    """Settings of an attention or of a loss come with what they set.

    Alone they have no effect.
    """
    implementation = attention.attn_implementation
    if implementation != "flex_attention":
        needed = "`attn_implementation: flex_attention`"
        yield from find_idle_keys(attention, ("flex_attn_compile_kwargs",), needed)
    if not attention.scaling_softmax:
        parts = ("scaling_softmax_factor", "scaling_softmax_bias")
        yield from find_idle_keys(attention, parts, "`scaling_softmax: true`")
    if implementation != "sdpa":
        why = f"with `attn_implementation: {implementation}`"
        yield from find_useless_keys(attention, ("sdpa_varlen",), why)
    elif not (packing.sample_packing or packing.batch_flattening):
        yield from find_idle_keys(attention, ("sdpa_varlen",), "`sample_packing: true`")
    if loss.chunked_cross_entropy is False:
        chunks = ("chunked_cross_entropy_num_chunks",)
        yield from find_useless_keys(loss, chunks, "with `chunked_cross_entropy: false`")
    if not loss.use_eaft:
        yield from find_idle_keys(loss, ("eaft_alpha", "eaft_k"), "`use_eaft: true`")


def _check_flattening(
    packing: PackingSection, batch: BatchSection, online: OnlineSection
) -> Iterator[Finding]:
    """`batch_flattening` has a batch of several unpacked rows to flatten.

    `auto` switches itself off where there is none.  Liger's loss of GRPO computes its own forward pass, over
    padded rows.
    """
    if packing.batch_flattening is not True:
        return
    if packing.sample_packing:
        message = "`batch_flattening` and `sample_packing` exclude each other"
        yield Finding("batch_flattening", message, "Keep one of them.")
    elif batch.micro_batch_size == 1:
        why = "with `micro_batch_size: 1`"
        yield from find_useless_keys(packing, ("batch_flattening",), why, "Raise `micro_batch_size`")
    if online.trl and online.trl.use_liger_loss:
        yield Finding(
            "batch_flattening",
            "`batch_flattening` does not reach the forward pass of `trl.use_liger_loss`",
            "Remove one of them, or accept that only old answers are scored unpadded.",
            "warning",
        )


#: Attention without a backward pass -> why, and what it is for.
_FORWARD_ONLY = {
    "sage": "the package sageattention multiplies in 8 bits, and has no backward pass",
    "fp8": "8-bit attention, of torchao and of flash-attention 3, has no backward pass",
}


def _check_trainable(attention: AttentionSection) -> Iterator[Finding]:
    """Attention has a backward pass.

    `sage` and `fp8` are made for answers: their kernels compute forward only.  In training, queries, keys and values
    would get no gradient, while the rest of the model learns around them: the loss falls, or explodes, and says
    nothing of it.  An engine that serves the trained model can use them.
    """
    reason = _FORWARD_ONLY.get(attention.attn_implementation)
    if reason is not None:
        yield Finding(
            "attn_implementation",
            f"`attn_implementation: {attention.attn_implementation}` cannot train: {reason}",
            "Write `attn_implementation: sdpa`; where the trained model is served, 8-bit attention can be used.",
            value=attention.attn_implementation,
        )


def _check_foreign(attention: AttentionSection) -> Iterator[Finding]:
    """A kernel of an owner that is not known is pinned to a revision.

    It is a program of its owner's, and runs with your rights.  Without a revision, what runs tomorrow may be another
    program than the one that you have looked at.
    """
    name = attention.attn_implementation
    if is_hub_id(name) and "@" not in name and not name.startswith(f"{KNOWN_OWNER}/"):
        yield Finding(
            "attn_implementation",
            f"`attn_implementation: {name}` runs whatever program its owner puts there",
            f"Read it, and pin it: `attn_implementation: {name}@REVISION`, of a commit.",
            "warning",
            value=name,
        )


def _check_hybrid(attention: AttentionSection) -> Iterator[Finding]:
    """Gemma 4's two attentions begin as flash attention.

    Only the layers without a window are changed to SDPA.
    """
    is_set = "attn_implementation" in attention.model_fields_set
    if attention.gemma4_hybrid_attn_impl and is_set and attention.attn_implementation != "flash_attention_2":
        yield Finding(
            "attn_implementation",
            f"`gemma4_hybrid_attn_impl: true` contradicts `{attention.attn_implementation}` attention",
            "Write `attn_implementation: flash_attention_2`, or remove `gemma4_hybrid_attn_impl`.",
        )


def _check_losses(loss: LossSection, liger: LigerSection) -> Iterator[Finding]:
    """There is one implementation of cross-entropy.

    Of several, one would be taken and the others passed over.
    """
    own = ("cut_cross_entropy", "chunked_cross_entropy", "flash_attn_cross_entropy")
    found = keys_asking(loss, own)
    found += keys_asking(liger, ("liger_cross_entropy", "liger_fused_linear_cross_entropy"))
    if len(found) > 1:
        yield Finding(found[-1], f"{list_keys(found)} exclude each other", "Keep one of them.")


def _check_chunks(loss: LossSection, liger: LigerSection) -> Iterator[Finding]:
    """A loss in chunks is asked for or ruled out, not both.

    `cut_cross_entropy` and `liger_fused_linear_cross_entropy` are other names for `chunked_cross_entropy: true`.
    """
    found = keys_asking(loss, ("cut_cross_entropy",))
    found += keys_asking(liger, ("liger_fused_linear_cross_entropy",))
    if found and loss.chunked_cross_entropy is False:
        message = f"`{found[0]}: true` contradicts `chunked_cross_entropy: false`"
        yield Finding(found[0], message, "Remove one of them.")


def _check_tiles(liger: LigerSection, memory: MemorySection) -> Iterator[Finding]:
    """Feed-forward layers that run in slices are the model's own where Liger replaces their activation.

    The general layer that `tiled_mlp_use_original_mlp: false` puts in would replace Liger's.
    """
    if liger.liger_glu_activation and memory.tiled_mlp and not memory.tiled_mlp_use_original_mlp:
        yield Finding(
            "tiled_mlp_use_original_mlp",
            "`tiled_mlp_use_original_mlp: false` does not work with `liger_glu_activation`",
            "Set it to true, or remove `liger_glu_activation`.",
        )


def _check_tensors(liger: LigerSection, distributed: DistributedSection) -> Iterator[Finding]:
    """Where GPUs share layers, norms and the head with its loss are not Liger's.

    Those kernels take the part of a tensor that a GPU holds for the whole.
    """
    size = distributed.tensor_parallel_size or 1
    names = keys_asking(liger, ("liger_rms_norm", "liger_fused_linear_cross_entropy"))
    for name in names if size > 1 else ():
        message = f"`{name}: true` does not work with `tensor_parallel_size: {size}`"
        yield Finding(name, message, f"Remove `{name}`.")


def _check_weighing(liger: LigerSection) -> Iterator[Finding]:
    """Tokens are weighed by Liger's fused head and loss only."""
    if liger.liger_use_token_scaling and not liger.liger_fused_linear_cross_entropy:
        yield Finding(
            "liger_use_token_scaling",
            "`liger_use_token_scaling: true` needs `liger_fused_linear_cross_entropy: true`",
            "Add it, or remove `liger_use_token_scaling`.",
        )


_FUSED = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")


def _check_fused(kernels: KernelSection, model: ModelSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Fused LoRA runs on layers that are known, and not sharded by FSDP1.

    The kernels replace the code of a layer, so it must be that of transformers.
    """
    layers = keys_set(kernels, _FUSED)
    every = keys_set(kernels, (*_FUSED, "lora_embedding_kernel"))
    for found, is_on, cause in (
        (layers, model.trust_remote_code, "`trust_remote_code: true`"),
        (every, fsdp_generation(fsdp) == 1, "FSDP1"),
    ):
        if found and is_on:
            pronoun = "it" if len(found) == 1 else "them"
            verb = "does" if len(found) == 1 else "do"
            message = f"{list_keys(found)} {verb} not work with {cause}"
            yield Finding(found[0], message, f"Remove {pronoun}: LoRA works without, only slower.")


def _check_plain(
    adapter: AdapterSection, kernels: KernelSection, quantization: QuantizationSection
) -> Iterator[Finding]:
    """LoRA stands beside plain linear layers.

    A fused feed-forward layer has none any more, and three-valued weights are trained themselves.
    """
    found = keys_set(kernels, ("flash_attn_fuse_mlp",)) + keys_set(quantization, ("use_onebitllms",))
    for name in found if adapter.adapter in ("lora", "qlora") else ():
        message = f"`{name}: true` does not work with `adapter: {adapter.adapter}`"
        yield Finding(name, message, f"Remove `{name}`, or `adapter`.")


def _check_package(attention: AttentionSection) -> Iterator[Finding]:
    """What computes attention is installed.

    transformers would take another implementation in its place, from the hub, or stop with a traceback.
    """
    name = attention.attn_implementation
    need = find_need(name)
    if need is not None and need.is_missing:
        yield Finding(
            "attn_implementation",
            f"`attn_implementation: {name}` needs the package {need.package}, which is not installed",
            f"Install it ({need.install}), or write `attn_implementation: sdpa`, which needs PyTorch only.",
        )


def _check_half(attention: AttentionSection, precision: PrecisionSection) -> Iterator[Finding]:
    """Flash attention computes in 16 bits."""
    name = attention.attn_implementation
    need = find_need(name)
    is_single = precision.pure == "float32" or not (precision.pure or precision.bf16 or precision.fp16)
    if need is not None and need.is_half and is_single:
        yield Finding(
            "attn_implementation",
            f"`attn_implementation: {name}` has no kernel for float32",
            "Set `bf16: auto` or `fp16: true`, or write `attn_implementation: sdpa`.",
        )


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"

RULES = (
    Rule(
        "SD0333",
        _check_scaling,
        wrong="scaling_softmax: true",
        right="scaling_softmax: true\nattn_implementation: flex_attention",
    ),
    Rule("SD0334", _check_idle, wrong="eaft_k: 10", right="eaft_k: 10\nuse_eaft: true"),
    Rule(
        "SD0336",
        _check_flattening,
        wrong="batch_flattening: true\nmicro_batch_size: 1",
        right="batch_flattening: true\nmicro_batch_size: 4",
    ),
    Rule(
        "SD0338",
        _check_hybrid,
        wrong="gemma4_hybrid_attn_impl: true\nattn_implementation: sdpa",
        right="gemma4_hybrid_attn_impl: true\nattn_implementation: flash_attention_2",
    ),
    Rule(
        "SD0339",
        _check_losses,
        wrong="cut_cross_entropy: true\nliger_fused_linear_cross_entropy: true",
        right="cut_cross_entropy: true",
    ),
    Rule(
        "SD0576",
        _check_chunks,
        wrong="cut_cross_entropy: true\nchunked_cross_entropy: false",
        right="cut_cross_entropy: true",
    ),
    Rule(
        "SD0341",
        _check_tiles,
        wrong="liger_glu_activation: true\ntiled_mlp: true\ntiled_mlp_use_original_mlp: false",
        right="liger_glu_activation: true\ntiled_mlp: true",
    ),
    Rule(
        "SD0342",
        _check_tensors,
        wrong="liger_rms_norm: true\ntensor_parallel_size: 2",
        right="liger_rms_norm: true",
    ),
    Rule(
        "SD0343",
        _check_weighing,
        wrong="liger_use_token_scaling: true",
        right="liger_use_token_scaling: true\nliger_fused_linear_cross_entropy: true",
    ),
    Rule(
        "SD0344",
        _check_fused,
        wrong=_LORA + "lora_mlp_kernel: true\ntrust_remote_code: true",
        right=_LORA + "lora_mlp_kernel: true",
    ),
    Rule(
        "SD0345",
        _check_plain,
        wrong=_LORA + "flash_attn_fuse_mlp: true",
        right="flash_attn_fuse_mlp: true",
    ),
    Rule(
        "SD0687",
        _check_package,
        wrong="attn_implementation: flash_attention_2",
        right="attn_implementation: sdpa",
        portable=False,
    ),
    Rule(
        "SD0688",
        _check_half,
        wrong="attn_implementation: flash_attention_2\nbf16: false",
        right="attn_implementation: flash_attention_2\nbf16: auto",
    ),
    Rule(
        "SD0700",
        _check_trainable,
        wrong="attn_implementation: sage",
        right="attn_implementation: sdpa",
    ),
    Rule(
        "SD0701",
        _check_foreign,
        wrong="attn_implementation: some/kernel",
        right="attn_implementation: some/kernel@0f3c1a9",
        portable=False,
    ),
)
