"""Layer normalization.

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.define import define_op


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Rows without their mean, over their standard deviation, times a weight, plus a bias.

    Equals `F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)`.  Gradients are taken
    in fp32 and rounded once; those of weight and bias are the same in each run.

    Args:
        x: Shape [..., D]: bf16, fp16 or fp32; with its last dim contiguous it is not copied.
        weight: Shape [D], in any format; None for ones.
        bias: Shape [D], in any format; None for zeros.
        eps: Added to the variance.

    Returns:
        Shape [..., D], contiguous, in the format of `x`.
    """
    y: Tensor = _layer_norm(x, weight, bias, eps)[0]
    return y


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The plain path: the norm [..., D], mean and one over the standard deviation of each row, [rows], fp32."""
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    centred = wide - mean
    rstd = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    y = centred * rstd
    if weight is not None:
        y = y * weight.float()
    if bias is not None:
        y = y + bias.float()
    return y.to(x.dtype).contiguous(), mean.reshape(-1), rstd.reshape(-1)


def _run(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == GPU and has_triton():
        from siredon.ops.layer_norm_kernels import launch_forward

        return launch_forward(x, weight, bias, eps)
    return _norm(x, weight, bias, eps)


def _fake(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_empty((2, x.shape[:-1].numel()), dtype=torch.float32)
    return x.new_empty(x.shape), torch.empty_like(sums[0]), torch.empty_like(sums[1])


def _differentiate(
    grad: Tensor, x: Tensor, weight: Tensor | None, moments: tuple[Tensor, Tensor], learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The plain path: gradients of the row [..., D], and of weight and bias [D], fp32, if they learn."""
    mean, rstd = (value.view(*x.shape[:-1], 1) for value in moments)
    normed = (x.float() - mean) * rstd
    above = grad.float()
    pull = above if weight is None else above * weight.float()
    dx = (pull - pull.mean(-1, keepdim=True) - normed * (pull * normed).mean(-1, keepdim=True)) * rstd
    dx = dx.to(x.dtype).contiguous()
    if not learns:
        return dx, rstd.new_empty(0), rstd.new_empty(0)
    dim = x.shape[-1]
    return dx, (above * normed).reshape(-1, dim).sum(0), above.reshape(-1, dim).sum(0)


def _run_back(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == GPU and has_triton():
        from siredon.ops.layer_norm_kernels import launch_backward

        return launch_backward(grad, x, weight, (mean, rstd), learns)
    return _differentiate(grad, x, weight, (mean, rstd), learns)


def _fake_back(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    size = x.shape[-1] if learns else 0
    return x.new_empty(x.shape), rstd.new_empty(size), rstd.new_empty(size)


_layer_norm_backward = define_op("siredon::layer_norm_backward", _run_back, _fake_back)


def _keep_input(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Without this, PyTorch would make zeros for outputs that have no gradient
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, *output[1:])
    ctx.bias_format = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    x, weight, mean, rstd = ctx.saved_tensors
    _, learns_weight, learns_bias, _ = ctx.needs_input_grad
    found = _layer_norm_backward(grad, x, weight, mean, rstd, learns_weight or learns_bias)
    dweight = found[1].to(weight.dtype) if learns_weight else None
    return found[0], dweight, found[2].to(ctx.bias_format) if learns_bias else None, None


_layer_norm = define_op("siredon::layer_norm", _run, _fake, keep=_keep_input, backward=_backward)
