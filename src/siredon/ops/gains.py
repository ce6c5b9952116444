"""Outputs of a layer times numbers that are learned, one for each output.

Shapes: N rows, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton


def scale_outputs(
    y: Tensor, gains: Tensor, *, bias: Tensor | None = None, rest: Tensor | None = None
) -> Tensor:
    """Equals `y * gains + bias + rest`, rounded once; it keeps `y` for the backward pass.

    Args:
        y: Shape [..., O].
        gains: Shape [O], in fp32, or fp64 where `y` is that.
        bias: Shape [O].
        rest: The shape and format of `y`.

    Returns:
        Shape [..., O], contiguous, in the format of `y`.
    """
    output: Tensor = _Scaled.apply(y, gains, bias, rest)  # type: ignore[no-untyped-call]
    return output


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
        rows = y.reshape(-1, y.shape[-1])
        ctx.save_for_backward(y, gains)
        ctx.formats = None if bias is None else bias.dtype
        other = None if rest is None else rest.reshape(rows.shape)
        scaled: Tensor = _scale(rows, gains, bias, other)
        return scaled.view(y.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, gains = ctx.saved_tensors
        above = gradients[0].reshape(-1, y.shape[-1])
        to_y, to_gains = _differentiate(above, y.reshape(above.shape), gains)
        to_bias = above.sum(0).to(ctx.formats) if ctx.needs_input_grad[2] else None
        return to_y.view(y.shape), to_gains, to_bias, gradients[0] if ctx.needs_input_grad[3] else None


def _scale_plainly(y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
    total = y.to(gains.dtype) * gains
    for part in (bias, rest):
        if part is not None:
            total += part
    return total.to(y.dtype)


def _differentiate_plainly(above: Tensor, y: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    wide = above.to(gains.dtype)
    return (wide * gains).to(y.dtype), (wide * y).sum(0)


def _has_kernel(y: Tensor) -> bool:
    return has_triton() and y.dtype is not torch.float64


@torch.library.custom_op("siredon::scale_outputs", mutates_args=())
def _scale(y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
    return _scale_plainly(y, gains, bias, rest)


@_scale.register_kernel(GPU)
def _(y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
    if not _has_kernel(y):
        return _scale_plainly(y, gains, bias, rest)
    from siredon.ops.gains_kernels import launch_scale

    return launch_scale(y, gains, bias, rest)


@_scale.register_fake
def _(y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
    return y.new_empty(y.shape)


@torch.library.custom_op("siredon::scale_outputs_backward", mutates_args=())
def _differentiate(above: Tensor, y: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    return _differentiate_plainly(above, y, gains)


@_differentiate.register_kernel(GPU)
def _(above: Tensor, y: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    if not _has_kernel(y):
        return _differentiate_plainly(above, y, gains)
    from siredon.ops.gains_kernels import launch_backward

    return launch_backward(above, y, gains)


@_differentiate.register_fake
def _(above: Tensor, y: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), gains.new_empty(gains.shape)
