"""Gated linear units whose gate and up lack the products of their adapters: these are added as they are read.

Each adapter has but a few columns, so that its product of a tile is one small matrix product on the chip: gate and up
are not written once more for it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from siredon.ops.glu_kernels import _activate

#: Rows and columns of a tile, and its warps.  On an H100 the backward pass of 8,192 x 14,336 at rank 16 takes 0.55 ms,
#: and with tiles of 64 x 64 and 8 warps 0.72.
ROWS, COLUMNS, WARPS = 16, 128, 8


@triton.jit  # type: ignore[untyped-decorator]
def _add_low(  # noqa: PLR0913 - a kernel takes pointers and numbers
    wide: tl.tensor,
    low: tl.tensor,
    low_stride: tl.tensor,
    b: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    rank: tl.tensor,
    scale: tl.tensor,
    column_step: tl.tensor,
    part_step: tl.tensor,
    width: tl.constexpr,
) -> tl.tensor:
    """A tile with a product of few columns added, rounded as the output of a layer is, fp32."""
    parts = tl.arange(0, width)
    left = tl.load(
        low + row[:, None] * low_stride + parts[None, :],
        mask=(row < num_rows)[:, None] & (parts < rank)[None, :],
        other=0.0,
    )
    right = tl.load(
        b + column[None, :] * column_step + parts[:, None] * part_step,
        mask=(column < dim)[None, :] & (parts < rank)[:, None],
        other=0.0,
    )
    total = wide.to(tl.float32) + tl.dot(left, right, input_precision="ieee") * scale
    return total.to(wide.dtype).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    gate: tl.tensor,
    up: tl.tensor,
    gate_low: tl.tensor,
    up_low: tl.tensor,
    gate_b: tl.tensor,
    up_b: tl.tensor,
    product: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    low_stride: tl.tensor,
    gate_rank: tl.tensor,
    up_rank: tl.tensor,
    gate_scale: tl.tensor,
    up_scale: tl.tensor,
    activation: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Products of a tile."""
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    inside = (row < num_rows)[:, None] & (column < dim)[None, :]
    place = row[:, None] * dim + column[None, :]
    x = tl.load(gate + place, mask=inside, other=0.0)
    other = tl.load(up + place, mask=inside, other=0.0)
    x = _add_low(
        x,
        gate_low,
        low_stride,
        gate_b,
        row,
        column,
        num_rows,
        dim,
        gate_rank,
        gate_scale,
        gate_rank,
        1,
        width,
    )
    other = _add_low(
        other, up_low, low_stride, up_b, row, column, num_rows, dim, up_rank, up_scale, up_rank, 1, width
    )
    active, _ = _activate(x, activation)
    tl.store(product + place, (active * other).to(product.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    gate: tl.tensor,
    up: tl.tensor,
    gate_low: tl.tensor,
    up_low: tl.tensor,
    gate_b: tl.tensor,
    up_b: tl.tensor,
    grad: tl.tensor,
    back: tl.tensor,
    down_a: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    low_stride: tl.tensor,
    gate_rank: tl.tensor,
    up_rank: tl.tensor,
    gate_scale: tl.tensor,
    up_scale: tl.tensor,
    down_rank: tl.tensor,
    activation: tl.constexpr,
    adds: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Gradients of a tile over its gate and up, and its products over the gradient of the product."""
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    inside = (row < num_rows)[:, None] & (column < dim)[None, :]
    place = row[:, None] * dim + column[None, :]
    x = tl.load(gate + place, mask=inside, other=0.0)
    other = tl.load(up + place, mask=inside, other=0.0)
    above = tl.load(grad + place, mask=inside, other=0.0)
    if adds:
        above = _add_low(
            above, back, down_rank, down_a, row, column, num_rows, dim, down_rank, 1.0, 1, dim, width
        )
    else:
        above = above.to(tl.float32)
    x = _add_low(
        x,
        gate_low,
        low_stride,
        gate_b,
        row,
        column,
        num_rows,
        dim,
        gate_rank,
        gate_scale,
        gate_rank,
        1,
        width,
    )
    other = _add_low(
        other, up_low, low_stride, up_b, row, column, num_rows, dim, up_rank, up_scale, up_rank, 1, width
    )
    active, slope = _activate(x, activation)
    tl.store(gate + place, (above * other * slope).to(gate.dtype.element_ty), mask=inside)
    tl.store(up + place, (above * active).to(up.dtype.element_ty), mask=inside)
    tl.store(grad + place, (active * other).to(grad.dtype.element_ty), mask=inside)


def launch_forward(
    wide: tuple[Tensor, Tensor],
    low: Tensor,
    bs: tuple[Tensor, Tensor],
    scales: tuple[float, float],
    activation: str,
) -> Tensor:
    """The product [N, F].

    Args:
        wide: Gate and up without their adapters, [N, F] each, contiguous.
        low: The inputs' products with both `a`, beside each other, [N, sum of r].
        bs: Both `b`, [F, r], contiguous, in the format of `wide`.
        scales: What their products are multiplied by.
        activation: One of `glu.ACTIVATIONS`.
    """
    product = torch.empty_like(wide[0])
    if product.numel():
        _launch(_forward_kernel, (wide, low, bs, scales), (product,), activation=activation)
    return product


def launch_backward_(
    wide: tuple[Tensor, Tensor],
    low: Tensor,
    bs: tuple[Tensor, Tensor],
    scales: tuple[float, float],
    above: tuple[Tensor, Tensor | None, Tensor | None],
    activation: str,
) -> None:
    """Gate and up become their gradients, and the gradient of the product becomes the product.  See `launch_forward`.

    Args:
        wide: As before.
        low: As before.
        bs: As before.
        scales: As before.
        above: The gradient of the product, [N, F], contiguous; and what is still to be added to it, as the product of
            [N, r] with [r, F], both contiguous, or None.
        activation: As before.
    """
    grad, back, down_a = above
    if not grad.numel():
        return
    adds = back is not None and down_a is not None
    rank = down_a.shape[0] if down_a is not None and adds else 1
    rest = (grad, back if adds else grad, down_a if adds else grad)
    _launch(_backward_kernel, (wide, low, bs, scales), rest, rank, activation=activation, adds=adds)


def _launch(
    kernel: Any, given: tuple[Any, ...], rest: tuple[Any, ...], rank: int = 0, **constants: Any
) -> None:
    (gate, up), low, (gate_b, up_b), scales = given
    num_rows, dim = gate.shape
    ranks = gate_b.shape[1], up_b.shape[1]
    grid = (triton.cdiv(dim, COLUMNS), triton.cdiv(num_rows, ROWS))
    with torch.accelerator.device_index(gate.device.index):
        kernel[grid](
            gate,
            up,
            low,
            low[:, ranks[0] :],
            gate_b,
            up_b,
            *rest,
            num_rows,
            dim,
            low.stride(0),
            *ranks,
            *map(float, scales),
            *((rank,) if rank else ()),
            **constants,
            width=max(16, triton.next_power_of_2(max(*ranks, rank))),
            rows=ROWS,
            columns=COLUMNS,
            num_warps=WARPS,
        )
