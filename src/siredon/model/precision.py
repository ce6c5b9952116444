"""Number formats of a run, decided by config and hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from siredon.config.sections.precision import PrecisionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.log import warn


@dataclass(frozen=True)
class Precision:
    """Number formats.

    Args:
        weights: Format in which the base weights are held.
        autocast: Format of mixed-precision arithmetic; None for plain fp32.
        tf32: TensorFloat-32 for the fp32 products that remain.
    """

    weights: torch.dtype
    autocast: Literal["bf16", "fp16"] | None
    tf32: bool

    def describe(self) -> str:
        """For people."""
        weights = str(self.weights).removeprefix("torch.")
        return f"{weights} weights, {self.autocast} autocast" if self.autocast else f"{weights} weights"


def warn_of_rounding(precision: Precision, *, has_adapter: bool) -> None:
    """Weights that are trained in bfloat16 lose updates under 1/256 of their size."""
    if precision.weights == torch.bfloat16 and not has_adapter:
        warn(
            "every weight is held and trained in bfloat16, as in Axolotl: updates smaller than about 1/256 of a "
            "weight are rounded off. `bf16: false` trains in fp32, with twice the memory"
        )


def resolve_precision(section: PrecisionSection, hardware: Hardware, *, has_adapter: bool) -> Precision:
    """Decides the formats.

    `bf16: auto` (the default) means bfloat16 weights and autocast where the hardware multiplies
    bfloat16, and fp32 elsewhere.  Under fp16 the weights that are trained stay fp32, as loss scaling needs.

    Raises:
        ModelError: A format that this hardware does not have.
    """
    tf32 = hardware.has_tf32 if section.tf32 == "auto" else bool(section.tf32) and hardware.has_tf32
    if section.fp16:
        if not hardware.is_gpu:
            raise ModelError(f"`fp16: true` needs a GPU; this run is on {hardware.name}", "Use `bf16: auto`.")
        return Precision(torch.float16 if has_adapter else torch.float32, "fp16", tf32)
    if section.bf16 is True and not hardware.has_bf16 and hardware.is_gpu:
        raise ModelError(
            f"`bf16: true`: {hardware.name} has no bfloat16", "Use `bf16: auto` or `fp16: true`."
        )
    if section.bf16 is True or (section.bf16 == "auto" and hardware.has_bf16):
        return Precision(torch.bfloat16, "bf16", tf32)
    return Precision(torch.float32, None, tf32)
