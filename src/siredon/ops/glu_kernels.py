"""Gated linear units in Triton: each element is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from siredon.ops.rows import Rows, fold_rows

#: Elements of a program: 8 for each thread of 4 warps.
_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _activate(x: tl.tensor, activation: tl.constexpr) -> tl.tensor:
    """The activation and its derivative, fp32."""
    if activation == "gelu":
        share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope = share + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif activation == "gelu_tanh":
        # 0.5 * (1 + tanh(u)) is sigmoid(2 * u)
        bend = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        share = tl.sigmoid(bend)
        # Not 1 - share: its rounding error would be multiplied by x cubed
        slope = share * (1.0 + x * tl.sigmoid(-bend) * (1.5957691216057308 + 0.2140644488 * x * x))
    else:
        share = tl.sigmoid(x)
        slope = share * (1.0 + x * (1.0 - share))
    return x * share, slope


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    gate: tl.tensor,
    up: tl.tensor,
    product: tl.tensor,
    dim: tl.tensor,
    num_blocks: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    activation: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Products of a part of a row."""
    program = tl.program_id(0).to(tl.int64)
    row = program // num_blocks
    column = (program % num_blocks) * block + tl.arange(0, block)
    inside = column < dim
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    active, _ = _activate(x, activation)
    tl.store(product + row * dim + column, (active * other).to(product.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    gate: tl.tensor,
    up: tl.tensor,
    grad: tl.tensor,
    dgate: tl.tensor,
    dup: tl.tensor,
    product: tl.tensor,
    dim: tl.tensor,
    num_blocks: tl.tensor,
    gate_stride: tl.tensor,
    up_stride: tl.tensor,
    grad_stride: tl.tensor,
    dgate_stride: tl.tensor,
    dup_stride: tl.tensor,
    activation: tl.constexpr,
    recompute: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradients of a part of a row, maybe over its gate and up, and its products."""
    program = tl.program_id(0).to(tl.int64)
    row = program // num_blocks
    column = (program % num_blocks) * block + tl.arange(0, block)
    inside = column < dim
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    above = tl.load(grad + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    active, slope = _activate(x, activation)
    found = (above * other * slope).to(dgate.dtype.element_ty)
    tl.store(dgate + row * dgate_stride + column, found, mask=inside)
    tl.store(dup + row * dup_stride + column, (above * active).to(dup.dtype.element_ty), mask=inside)
    if recompute:
        tl.store(product + row * dim + column, (active * other).to(product.dtype.element_ty), mask=inside)


def _lay_out(*tensors: Tensor) -> tuple[int, int, list[Rows]]:
    """Rows, elements of a row, and the tensors with one distance from row to row: one long row, if they are dense."""
    if all(x.is_contiguous() for x in tensors):
        size = tensors[0].numel()
        return 1, size, [Rows(x, 1, size, 0) for x in tensors]
    folded = [fold_rows(x) for x in tensors]
    even = [rows if rows.inner == 1 else fold_rows(rows.tensor.contiguous()) for rows in folded]
    return tensors[0].shape[:-1].numel(), tensors[0].shape[-1], even


def launch_forward(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """The product [..., F]."""
    product = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if product.numel():
        num_rows, dim, (first, second) = _lay_out(gate, up)
        num_blocks = triton.cdiv(dim, _BLOCK)
        with torch.accelerator.device_index(gate.device.index):
            _forward_kernel[(num_rows * num_blocks,)](
                first.tensor,
                second.tensor,
                product,
                dim,
                num_blocks,
                first.outer,
                second.outer,
                activation=activation,
                block=_BLOCK,
                num_warps=4,
            )
    return product


def launch_backward(
    given: tuple[Tensor, Tensor, Tensor], out: tuple[Tensor, Tensor], activation: str, recompute: bool
) -> Tensor:
    """Writes gradients of gate and up, which may be where gate and up are; returns the product, if wanted.

    Given are gate, up, and the gradient of the product, each [..., F].
    """
    gate = given[0]
    product = torch.empty(gate.shape if recompute else 0, dtype=gate.dtype, device=gate.device)
    if not gate.numel():
        return product
    num_rows, dim, laid = _lay_out(*given, *out)
    num_blocks = triton.cdiv(dim, _BLOCK)
    with torch.accelerator.device_index(gate.device.index):
        _backward_kernel[(num_rows * num_blocks,)](
            *(rows.tensor for rows in laid),
            product,
            dim,
            num_blocks,
            *(rows.outer for rows in laid),
            activation=activation,
            recompute=recompute,
            block=_BLOCK,
            num_warps=4,
        )
    for rows, target in zip(laid[3:], out, strict=True):
        if rows.tensor is not target:
            target.copy_(rows.tensor)
    return product
