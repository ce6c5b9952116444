"""Layer normalization in Triton: programs and sums are those of `rms_norm_kernels.py`."""

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
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    x_inner: tl.tensor,
    x_outer: tl.tensor,
    x_step: tl.tensor,
    eps: tl.tensor,
    weighs: tl.constexpr,
    shifts: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows of the norm, and their mean and one over their standard deviation."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    columns = tl.arange(0, block)
    exists = row < num_rows
    inside = exists[:, None] & (columns < dim)[None, :]
    begin = (row // x_inner) * x_outer + (row % x_inner) * x_step
    values = tl.load(x + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    centre = tl.sum(values, axis=1) / dim
    values = tl.where(inside, values - centre[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(values * values, axis=1) / dim + eps)
    tl.store(mean + row, centre, mask=exists)
    tl.store(rstd + row, scale, mask=exists)
    values = values * scale[:, None]
    if weighs:
        values *= tl.load(weight + columns, mask=columns < dim, other=0.0).to(tl.float32)[None, :]
    if shifts:
        values += tl.load(bias + columns, mask=columns < dim, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row[:, None] * dim + columns[None, :], values.to(y.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    grad: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    mean: tl.tensor,
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
    weighs: tl.constexpr,
    learns: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradients of rows, and the sums of those of weight and bias over all rows of the program."""
    columns = tl.arange(0, block)
    if weighs:
        factor = tl.load(weight + columns, mask=columns < dim, other=0.0).to(tl.float32)[None, :]
    if learns:
        weights = tl.zeros((rows, block), dtype=tl.float32)
        biases = tl.zeros((rows, block), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(num_rows, rows), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * rows + tl.arange(0, rows)
        exists = row < num_rows
        inside = exists[:, None] & (columns < dim)[None, :]
        begin = (row // x_inner) * x_outer + (row % x_inner) * x_step
        values = tl.load(x + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        begin = (row // grad_inner) * grad_outer + (row % grad_inner) * grad_step
        above = tl.load(grad + begin[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        centre = tl.load(mean + row, mask=exists, other=0.0)[:, None]
        scale = tl.load(rstd + row, mask=exists, other=0.0)[:, None]
        normed = (values - centre) * scale
        pull = above
        if weighs:
            pull = above * factor
        shift = tl.sum(pull, axis=1)[:, None] / dim
        share = tl.sum(pull * normed, axis=1)[:, None] / dim
        found = (pull - shift - normed * share) * scale
        tl.store(dx + row[:, None] * dim + columns[None, :], found.to(dx.dtype.element_ty), mask=inside)
        if learns:
            weights += above * normed
            biases += above
    if learns:
        place = sums + tl.program_id(0).to(tl.int64) * 2 * dim + columns
        tl.store(place, tl.sum(weights, axis=0), mask=columns < dim)
        tl.store(place + dim, tl.sum(biases, axis=0), mask=columns < dim)


def launch_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm [..., D], and means and one over the standard deviations, [rows], fp32."""
    num_rows, dim = count_rows(x), x.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean = torch.empty(x.shape[:-1].numel(), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    if not num_rows:
        return y, mean, rstd
    rows, block, warps = choose_tile(dim)
    source = fold_rows(x)
    with torch.accelerator.device_index(x.device.index):
        _forward_kernel[(triton.cdiv(num_rows, rows),)](
            source.tensor,
            y if weight is None else weight.contiguous(),
            y if bias is None else bias.contiguous(),
            y,
            mean,
            rstd,
            num_rows,
            dim,
            *source[1:],
            eps,
            weighs=weight is not None,
            shifts=bias is not None,
            rows=rows,
            block=block,
            num_warps=warps,
        )
    return y, mean, rstd


def launch_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, moments: tuple[Tensor, Tensor], learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x` [..., D] and, if they learn, of weight and bias [D], fp32.

    The moments are mean and one over the standard deviation, as `launch_forward` kept them.
    """
    num_rows, dim = count_rows(x), x.shape[-1]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not num_rows:
        zeros = torch.zeros(2, dim if learns else 0, dtype=torch.float32, device=x.device)
        return dx, zeros[0].clone(), zeros[1].clone()
    rows, block, warps = choose_tile(dim)
    num_programs = triton.cdiv(num_rows, rows)
    if learns:
        num_programs = min(num_programs, count_programs(x.device, rows * block))
    sums = torch.empty((num_programs, 2, dim) if learns else 0, dtype=torch.float32, device=x.device)
    above, below = fold_rows(grad), fold_rows(x)
    with torch.accelerator.device_index(x.device.index):
        _backward_kernel[(num_programs,)](
            above.tensor,
            below.tensor,
            dx if weight is None else weight.contiguous(),
            *moments,
            dx,
            sums,
            num_rows,
            dim,
            *above[1:],
            *below[1:],
            weighs=weight is not None,
            learns=learns,
            rows=rows,
            block=block,
            num_warps=warps,
        )
    if not learns:
        return dx, sums, torch.empty_like(sums)
    return dx, sums[:, 0].sum(0), sums[:, 1].sum(0)
