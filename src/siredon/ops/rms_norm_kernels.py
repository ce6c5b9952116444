"""RMSNorm in Triton: each element is read once and written once.

A program has whole rows in hand: one of them, or several short ones.  Where the weight learns, there are only a few
programs for each multiprocessor; each goes through many rows and leaves one sum, and the sums are added at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from siredon.ops.rows import count_rows, fold_rows
from siredon.ops.tiles import choose_tile, count_programs


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    y: tl.tensor,
    total: tl.tensor,
    rstd: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    x_inner: tl.tensor,
    x_outer: tl.tensor,
    x_step: tl.tensor,
    residual_inner: tl.tensor,
    residual_outer: tl.tensor,
    residual_step: tl.tensor,
    eps: tl.tensor,
    offset: tl.tensor,
    adds: tl.constexpr,
    rounds_first: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows of the sum, of one over the root mean square, and of the norm."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    columns = tl.arange(0, block)
    exists = row < num_rows
    inside = exists[:, None] & (columns < dim)[None, :]
    begin = (row // x_inner) * x_outer + (row % x_inner) * x_step
    out = row[:, None] * dim + columns[None, :]
    values = tl.load(x + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if adds:
        begin = (row // residual_inner) * residual_outer + (row % residual_inner) * residual_step
        other = tl.load(residual + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        rounded = (values + other).to(total.dtype.element_ty)
        tl.store(total + out, rounded, mask=inside)
        values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=1) / dim + eps)
    tl.store(rstd + row, scale, mask=exists)
    factor = tl.load(weight + columns, mask=columns < dim, other=0.0).to(tl.float32)
    normed = values * scale[:, None]
    if rounds_first:
        normed = normed.to(x.dtype.element_ty).to(tl.float32)
    else:
        factor += offset
    tl.store(y + out, (normed * factor[None, :]).to(y.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    grad: tl.tensor,
    grad_total: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    rstd: tl.tensor,
    dx: tl.tensor,
    sums: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    grad_inner: tl.tensor,
    grad_outer: tl.tensor,
    grad_step: tl.tensor,
    x_inner: tl.tensor,
    x_outer: tl.tensor,
    x_step: tl.tensor,
    offset: tl.tensor,
    adds: tl.constexpr,
    rounds_first: tl.constexpr,
    learns: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradients of rows, and the sum of those of the weight over all rows of the program."""
    columns = tl.arange(0, block)
    factor = tl.load(weight + columns, mask=columns < dim, other=0.0).to(tl.float32)[None, :]
    if not rounds_first:
        factor += offset
    if learns:
        together = tl.zeros((rows, block), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(num_rows, rows), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * rows + tl.arange(0, rows)
        exists = row < num_rows
        inside = exists[:, None] & (columns < dim)[None, :]
        out = row[:, None] * dim + columns[None, :]
        begin = (row // x_inner) * x_outer + (row % x_inner) * x_step
        values = tl.load(x + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        begin = (row // grad_inner) * grad_outer + (row % grad_inner) * grad_step
        above = tl.load(grad + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(rstd + row, mask=exists, other=0.0)[:, None]
        normed = values * scale
        pull = above * factor
        mean = tl.sum(pull * normed, axis=1)[:, None] / dim
        found = (pull - normed * mean) * scale
        if adds:
            found += tl.load(grad_total + out, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + out, found.to(dx.dtype.element_ty), mask=inside)
        if learns:
            if rounds_first:
                normed = normed.to(x.dtype.element_ty).to(tl.float32)
            together += above * normed
    if learns:
        place = sums + tl.program_id(0).to(tl.int64) * dim + columns
        tl.store(place, tl.sum(together, axis=0), mask=columns < dim)


def launch_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float, rounds_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm and the sum, both [..., D], and one over the root mean squares, [rows], fp32.

    Without a residual the sum is `x` itself.
    """
    num_rows, dim = count_rows(x), x.shape[-1]
    wide = torch.promote_types(x.dtype, weight.dtype) if rounds_first else x.dtype
    y = torch.empty(x.shape, dtype=wide, device=x.device)
    total = x if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rstd = torch.empty(x.shape[:-1].numel(), dtype=torch.float32, device=x.device)
    if not num_rows:
        return y, total, rstd
    rows, block, warps = choose_tile(dim)
    first = fold_rows(x)
    second = first if residual is None else fold_rows(residual)
    with torch.accelerator.device_index(x.device.index):
        _forward_kernel[(triton.cdiv(num_rows, rows),)](
            first.tensor,
            second.tensor,
            weight.contiguous(),
            y,
            total,
            rstd,
            num_rows,
            dim,
            *first[1:],
            *second[1:],
            eps,
            offset,
            adds=residual is not None,
            rounds_first=rounds_first,
            rows=rows,
            block=block,
            num_warps=warps,
        )
    return y, total, rstd


def launch_backward(
    given: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor],
    offset: float,
    rounds_first: bool,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `x` [..., D] and, if it learns, of the weight [D].

    Given are the gradients of the norm and of the sum, `x` or the sum, the weight, and what `launch_forward` kept.
    """
    grad, grad_total, x, weight, rstd = given
    num_rows, dim = count_rows(x), x.shape[-1]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not num_rows:
        return dx, torch.zeros_like(weight) if learns else weight.new_empty(0)
    rows, block, warps = choose_tile(dim)
    num_programs = triton.cdiv(num_rows, rows)
    if learns:
        num_programs = min(num_programs, count_programs(x.device, rows * block))
    sums = torch.empty((num_programs, dim) if learns else 0, dtype=torch.float32, device=x.device)
    above, below = fold_rows(grad), fold_rows(x)
    with torch.accelerator.device_index(x.device.index):
        _backward_kernel[(num_programs,)](
            above.tensor,
            rstd if grad_total is None else grad_total.contiguous(),
            below.tensor,
            weight.contiguous(),
            rstd,
            dx,
            sums,
            num_rows,
            dim,
            *above[1:],
            *below[1:],
            offset,
            adds=grad_total is not None,
            rounds_first=rounds_first,
            learns=learns,
            rows=rows,
            block=block,
            num_warps=warps,
        )
    return dx, sums.sum(0).to(weight.dtype) if learns else weight.new_empty(0)
