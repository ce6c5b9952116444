"""RMSNorm, alone or behind the sum with the residual.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, https://arxiv.org/abs/1910.07467.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.define import define_op


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, rounds_first: bool = True
) -> Tensor:
    """Rows over their root mean square, times a weight.

    With `n = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)` equals
    `weight * n.to(x.dtype)`, as Llama has it, or, unless `rounds_first`, `(n * (offset + weight.float())).to(x.dtype)`,
    as Gemma has it.  Gradients are taken in fp32 and rounded once; that of the weight is the same in each run.

    Args:
        x: Shape [..., D]: bf16, fp16 or fp32; with its last dim contiguous it is not copied.
        weight: Shape [D], in the format of `x` or in fp32.
        eps: Added to the mean square.
        offset: Added to the weight; only where `rounds_first` is not set.
        rounds_first: Whether the row is rounded to the format of `x` before it meets the weight.

    Returns:
        Shape [..., D], contiguous, in the format of `x`; with `rounds_first` and a weight of another format, in the
        one that PyTorch promotes the two to: fp32, for a weight in fp32.

    Raises:
        ValueError: An offset with `rounds_first`.
    """
    _check(offset, rounds_first)
    y: Tensor = _rms_norm(x, weight, eps, offset, rounds_first)[0]
    return y


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    rounds_first: bool = True,
) -> tuple[Tensor, Tensor]:
    """Equals `rms_norm(x + residual, weight, eps, ...), x + residual`, in one pass.

    Args:
        x: Shape [..., D].
        residual: The same shape and format.
        weight: See `rms_norm`.
        eps: See `rms_norm`.
        offset: See `rms_norm`.
        rounds_first: See `rms_norm`.

    Returns:
        The norm, and the sum that it is of, both contiguous.

    Raises:
        ValueError: Shapes or formats of `x` and `residual` differ, or an offset with `rounds_first`.
    """
    _check(offset, rounds_first)
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise ValueError(f"cannot add {residual.dtype} {[*residual.shape]} to {x.dtype} {[*x.shape]}")
    y, total, _ = _add_rms_norm(x, residual, weight, eps, offset, rounds_first)
    return y, total


def _check(offset: float, rounds_first: bool) -> None:
    if offset and rounds_first:
        raise ValueError("an offset of the weight needs rounds_first=False")


def _format_of(x: Tensor, weight: Tensor, rounds_first: bool) -> torch.dtype:
    """The format of what comes out."""
    return torch.promote_types(x.dtype, weight.dtype) if rounds_first else x.dtype


def _norm(x: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    """The plain path: the norm [..., D], and one over the root mean square of each row, [rows], fp32."""
    wide = x.float()
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    normed = wide * rstd
    y = weight * normed.to(x.dtype) if rounds_first else (normed * (offset + weight.float())).to(x.dtype)
    return y.contiguous(), rstd.reshape(-1)


def _run(x: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    if x.device.type == GPU and has_triton():
        from siredon.ops.rms_norm_kernels import launch_forward

        y, _, rstd = launch_forward(x, None, weight, eps, offset, rounds_first)
        return y, rstd
    return _norm(x, weight, eps, offset, rounds_first)


def _fake(x: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape, dtype=_format_of(x, weight, rounds_first))
    return y, x.new_empty((x.shape[:-1].numel(),), dtype=torch.float32)


def _run_sum(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == GPU and has_triton():
        from siredon.ops.rms_norm_kernels import launch_forward

        return launch_forward(x, residual, weight, eps, offset, rounds_first)
    total = (x + residual).contiguous()
    y, rstd = _norm(total, weight, eps, offset, rounds_first)
    return y, total, rstd


def _fake_sum(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty(x.shape, dtype=_format_of(x, weight, rounds_first))
    return y, x.new_empty(x.shape), x.new_empty((x.shape[:-1].numel(),), dtype=torch.float32)


def _bend(
    given: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor],
    offset: float,
    rounds_first: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """The plain path: gradients of the row [..., D], and of the weight [D], if it learns."""
    grad, grad_total, x, weight, rstd = given
    rstd = rstd.view(*x.shape[:-1], 1)
    normed = x.float() * rstd
    pull = grad.float() * (offset + weight.float())
    dx = (pull - normed * (pull * normed).mean(-1, keepdim=True)) * rstd
    if grad_total is not None:
        dx = dx + grad_total.float()
    if not learns:
        return dx.to(x.dtype).contiguous(), weight.new_empty(0)
    met = normed.to(x.dtype).float() if rounds_first else normed
    dweight = (grad.float() * met).reshape(-1, x.shape[-1]).sum(0)
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype)


def _run_back(  # noqa: PLR0913 - what an op takes is a flat list
    grad: Tensor,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    offset: float,
    rounds_first: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    given = (grad, grad_total, x, weight, rstd)
    if x.device.type == GPU and has_triton():
        from siredon.ops.rms_norm_kernels import launch_backward

        return launch_backward(given, offset, rounds_first, learns)
    return _bend(given, offset, rounds_first, learns)


def _fake_back(*given: Any) -> tuple[Tensor, Tensor]:
    x, weight, learns = given[2], given[3], given[-1]
    return x.new_empty(x.shape), weight.new_empty(weight.shape if learns else 0)


_rms_norm_backward = define_op("siredon::rms_norm_backward", _run_back, _fake_back)


def _keep_input(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Without this, PyTorch would make zeros for outputs that have no gradient
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[-1])
    x, weight, _, ctx.offset, ctx.rounds_first = inputs
    ctx.save_for_backward(x, weight, output[-1])


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    learns = ctx.needs_input_grad[1]
    dx, dweight = _rms_norm_backward(grad, None, *ctx.saved_tensors, ctx.offset, ctx.rounds_first, learns)
    return dx, dweight if learns else None, None, None, None


def _keep_total(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.offset, ctx.rounds_first = inputs[-2:]
    ctx.save_for_backward(output[1], inputs[2], output[2])


def _backward_of_sum(
    ctx: Any, grad: Tensor | None, grad_total: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad is None:
        return grad_total, grad_total, None, None, None, None
    learns = ctx.needs_input_grad[2]
    dx, dweight = _rms_norm_backward(
        grad, grad_total, *ctx.saved_tensors, ctx.offset, ctx.rounds_first, learns
    )
    return dx, dx, dweight if learns else None, None, None, None


_rms_norm = define_op("siredon::rms_norm", _run, _fake, keep=_keep_input, backward=_backward)
_add_rms_norm = define_op(
    "siredon::add_rms_norm", _run_sum, _fake_sum, keep=_keep_total, backward=_backward_of_sum
)
