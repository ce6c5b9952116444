"""Number formats of a run, decided by config and hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from siredon.config.sections.precision import PrecisionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.log import warn

#: Parts of class names that count as normalization.
NORMS = ("RMSNorm", "LayerNorm")
#: Formats of weights, by the names that they have in a file.
FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """Number formats.

    Args:
        weights: Format in which the base weights are held.
        autocast: Format of mixed-precision arithmetic; None for plain arithmetic in the format of the weights.
        tf32: TensorFloat-32 for the fp32 products that remain.
        is_pure: Whether an adapter and the optimizer's state have the format of the weights too.
    """

    weights: torch.dtype
    autocast: Literal["bf16", "fp16"] | None
    tf32: bool
    is_pure: bool = False

    def autocasting(self, device: torch.device) -> AbstractContextManager[Any]:
        """Within it, mixed precision is on, if there is any."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16 if self.autocast == "bf16" else torch.float16)

    def describe(self) -> str:
        """For people."""
        weights = str(self.weights).removeprefix("torch.")
        if self.autocast:
            shown = f"{weights} weights, {self.autocast} autocast"
        else:
            shown = f"everything in {weights}" if self.is_pure else f"{weights} weights"
        return f"{shown}, tf32" if self.tf32 and self.autocast != "bf16" else shown


def warn_of_rounding(precision: Precision, *, has_adapter: bool) -> None:
    """Weights that are trained in 16 bits lose small updates."""
    if precision.weights == torch.bfloat16 and (precision.is_pure or not has_adapter):
        warn(
            "every weight is held and trained in bfloat16, as in Axolotl: updates smaller than about 1/256 of a "
            "weight are rounded off. `bf16: false` trains in fp32, with twice the memory"
            if not has_adapter
            else "the adapter is trained in bfloat16: updates smaller than about 1/256 of a weight are rounded off. "
            "`bf16: true` trains it in fp32"
        )
    if precision.weights == torch.float16 and precision.is_pure:
        warn(
            "everything is in float16, and the loss is not scaled: gradients below 6e-8 are zero. `fp16: true` scales "
            "the loss"
        )


def resolve_precision(section: PrecisionSection, hardware: Hardware, *, has_adapter: bool) -> Precision:
    """Decides the formats.

    `bf16: auto` (the default) means bfloat16 weights and autocast where the hardware multiplies
    bfloat16, and fp32 elsewhere.  Under fp16 the weights that are trained stay fp32, as loss scaling needs.
    A pure format is that of weights, adapter, arithmetic and optimizer alike.

    Raises:
        ModelError: A format that this hardware does not have.
    """
    tf32 = hardware.has_tf32 if section.tf32 == "auto" else bool(section.tf32) and hardware.has_tf32
    if section.pure:
        if section.pure == "bfloat16" and hardware.is_gpu and not hardware.has_bf16:
            raise ModelError(f"`bfloat16: true`: {hardware.name} has no bfloat16", "Use `float32: true`.")
        return Precision(FORMATS[section.pure], None, tf32, is_pure=True)
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


def set_formats_(model: Any, base: Any, section: PrecisionSection, precision: Precision) -> str:
    """Gives what is trained, and norms, the formats that the config asks for.

    Args:
        model: What is trained, an adapter's wrapper included.
        base: The model of transformers inside it.
        section: Which formats.
        precision: What was decided of them.

    Returns:
        What was changed, for people; empty for nothing.

    Raises:
        ModelError: No layer is of a class of `fp32_norm_classes`.
    """
    if precision.is_pure:
        cast_trained_(model, precision.weights)
        if model is not base:
            # A run that goes on reads its adapter anew, which PEFT would turn into fp32.
            model.load_adapter = partial(model.load_adapter, autocast_adapter_dtype=False)
    if not section.fp32_norms or precision.weights == torch.float32:
        return ""
    number = hold_norms_in_fp32_(base, tuple(section.fp32_norm_classes or NORMS))
    return f"{number} norms in float32"


def cast_trained_(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Gives all weights that are trained one format."""
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def hold_norms_in_fp32_(model: torch.nn.Module, names: tuple[str, ...]) -> int:
    """Norms are held and computed in fp32; what they give has the format of what they were given.

    Args:
        model: Its norms are changed, by hooks on each.
        names: Parts of class names that count as norms.

    Returns:
        How many there are.

    Raises:
        ModelError: None; the message names the classes that look like norms.
    """
    norms = [module for module in model.modules() if any(name in type(module).__name__ for name in names)]
    if not norms:
        found = sorted({type(m).__name__ for m in model.modules() if "norm" in type(m).__name__.lower()})
        raise ModelError(
            f"`fp32_norms`: this model has no layer whose class is called {' or '.join(names)}",
            f"Set `fp32_norm_classes` to some of: {', '.join(found) or 'it has no norms at all'}.",
        )
    for norm in norms:
        norm.to(torch.float32)
        _FormatKeeper(norm)
    return len(norms)


class _FormatKeeper:
    """Hooks of one norm: its input becomes fp32, its output what the input was."""

    def __init__(self, norm: torch.nn.Module) -> None:
        self._given = torch.float32
        norm.register_forward_pre_hook(self._widen)
        norm.register_forward_hook(self._narrow)

    def _widen(self, norm: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        self._given = inputs[0].dtype
        return (inputs[0].float(), *inputs[1:])

    def _narrow(self, norm: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(self._given)
