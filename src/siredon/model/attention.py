"""Whether this machine can train with the attention that the config names.  Nothing is chosen in its place."""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.attentions import Need, find_need, is_hub_id
from siredon.config.sections.attention import AttentionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware, read_capability
from siredon.model.precision import Precision


def check_attention(section: AttentionSection, precision: Precision, hardware: Hardware) -> str:
    """Refuses an implementation of attention that cannot train here, and loads a kernel of the hub.

    Returns:
        What attention is computed by, for people.

    Raises:
        ModelError: It needs a GPU, a newer one, or another number format, or it cannot be loaded.
    """
    name = section.attn_implementation
    need = find_need(name)
    if need is None:
        return name
    shown = f"`attn_implementation: {name}`"
    if need.needs_gpu:
        _check_gpu(name, need, hardware)
    if need.is_half and precision.autocast is None and precision.weights == torch.float32:
        raise ModelError(f"{shown} computes in 16 bits, and this run is in float32", "Set `bf16: true`.")
    if is_hub_id(name):
        from siredon.model.hub_kernel import load_kernel

        load_kernel(name)
    return name


def _check_gpu(name: str, need: Need, hardware: Hardware) -> None:
    shown = f"`attn_implementation: {name}`"
    if not hardware.is_gpu:
        why = (
            "it has no backward pass on a CPU"
            if name == "flex_attention"
            else "there is no kernel for anything else"
        )
        raise ModelError(
            f"{shown} needs a GPU, as {why}; this run is on {hardware.name}",
            "Write `attn_implementation: sdpa`.",
        )
    capability = read_capability()
    if (0, 0) < capability < need.capability:
        raise ModelError(
            f"{shown} needs a GPU of generation {_show(need.capability)} or later; {hardware.name} is of "
            f"{_show(capability)}",
            f"Write `attn_implementation: {need.instead}`.",
        )


def _show(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def register_attention(section: AttentionSection) -> str:
    """Makes an implementation that is ours known to transformers, through its registers of attention and of masks.

    A kernel of the hub is loaded when it first computes.

    Returns:
        What transformers calls it.
    """
    name = section.attn_implementation
    if name != "xformers" and not is_hub_id(name):
        return name
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    from siredon.model.varlen import build_attention

    if is_hub_id(name):
        from siredon.model.hub_kernel import build_attend

        # With its slash, or "flash" in it, transformers would load the kernel by itself, in other ways.
        known = "hub_kernel_" + name.encode().hex()
        attend = build_attend(name)
    else:
        from siredon.model.xformers import attend

        known = name
    AttentionInterface.register(known, build_attention(attend, name))
    AttentionMaskInterface.register(known, flash_attention_mask)
    return known


def check_kind(model: Any, section: AttentionSection) -> None:
    """Refuses a model whose attention a kernel for documents end to end cannot compute.

    Raises:
        ModelError: It does not leave its attention to others, or it sees chunks.
    """
    name = section.attn_implementation
    if name != "xformers" and not is_hub_id(name):
        return
    settings = model.config.get_text_config().to_dict()
    lacks = ""
    if settings.get("attention_chunk_size"):
        lacks = "sees chunks of a text, which no such kernel does"
    elif not model._supports_flash_attn:
        lacks = "is not built for kernels of flash attention"
    if lacks:
        raise ModelError(
            f"`attn_implementation: {name}`: {type(model).__name__} {lacks}",
            "Write `attn_implementation: sdpa`, or `eager`.",
        )
