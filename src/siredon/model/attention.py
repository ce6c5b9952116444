"""Whether this machine can train with the attention that the config names.  Nothing is chosen in its place."""

from __future__ import annotations

import torch

from siredon.config.attentions import NEEDS
from siredon.config.sections.attention import AttentionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware, read_capability
from siredon.model.precision import Precision


def check_attention(section: AttentionSection, precision: Precision, hardware: Hardware) -> str:
    """Refuses an implementation of attention that cannot train here.

    Returns:
        What attention is computed by, for people.

    Raises:
        ModelError: It needs a GPU, a newer one, or another number format.
    """
    name = section.attn_implementation
    need = NEEDS.get(name)
    if need is None:
        return name
    shown = f"`attn_implementation: {name}`"
    fix = f"Write `attn_implementation: {need.instead}`."
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
            fix,
        )
    if need.is_half and precision.autocast is None and precision.weights == torch.float32:
        raise ModelError(f"{shown} computes in 16 bits, and this run is in float32", "Set `bf16: true`.")
    return name


def _show(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
