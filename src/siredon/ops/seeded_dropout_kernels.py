"""Masks of dropout by counter: the number of a place is a function of the seed and of where the place is.

A call of the generator (Philox 4x32 with 7 rounds, the fewest that pass all tests of its authors) gives four numbers of
32 bits, and each of them two of 16.  They are for eight places an eighth of a row apart, so that tiles of any size find
the same mask: column c of eighth e has half e % 2 of number e // 2 of counter `row * eighth + c`.  A share is thus
rounded to a multiple of 1 / 65,536.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows of a tile and its columns in each eighth where a mask is only applied, and where a product is added.
_KEEP, _ADD = (8, 128), (64, 32)

#: Most columns of an adapter that are multiplied at once.
_WIDTH = 64


@triton.jit  # type: ignore[untyped-decorator]
def _draw(seed: tl.tensor, row: tl.tensor, column: tl.tensor, eighth: tl.tensor) -> tl.tensor:
    """Four numbers for each place of a tile, uint32; counters may come round to zero again."""
    counter = row.to(tl.int32)[:, None] * eighth + column[None, :]
    return tl.randint4x(tl.load(seed), counter, 7)


@triton.jit  # type: ignore[untyped-decorator]
def _is_kept(number: tl.tensor, threshold: tl.tensor, half: tl.constexpr) -> tl.tensor:
    """Whether one half of a number is at least the threshold."""
    return (number >> 16 if half else number & 0xFFFF) >= threshold


@triton.jit  # type: ignore[untyped-decorator]
def _keep_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    x: tl.tensor,
    kept: tl.tensor,
    seed: tl.tensor,
    threshold: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    eighth: tl.tensor,
    x_stride: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """A tile of each eighth."""
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    numbers = _draw(seed, row, column, eighth)
    for e in tl.static_range(8):
        place = e * eighth + column
        inside = (row < num_rows)[:, None] & ((column < eighth) & (place < dim))[None, :]
        value = tl.load(x + row[:, None] * x_stride + place[None, :], mask=inside, other=0.0)
        value = tl.where(_is_kept(numbers[e // 2], threshold, e % 2), value, 0.0)
        tl.store(kept + row[:, None] * dim + place[None, :], value.to(kept.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    total: tl.tensor,
    back: tl.tensor,
    a: tl.tensor,
    seed: tl.tensor,
    threshold: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    eighth: tl.tensor,
    rank: tl.tensor,
    back_stride: tl.tensor,
    width: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """A tile of each eighth: the product of few columns, where the mask keeps it, is added."""
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    numbers = _draw(seed, row, column, eighth)
    for e in tl.static_range(8):
        place = e * eighth + column
        has_column = (column < eighth) & (place < dim)
        product = tl.zeros((rows, columns), dtype=tl.float32)
        for begin in range(0, rank, width):
            part = begin + tl.arange(0, width)
            left = tl.load(
                back + row[:, None] * back_stride + part[None, :],
                mask=(row < num_rows)[:, None] & (part < rank)[None, :],
                other=0.0,
            )
            right = tl.load(
                a + part[:, None] * dim + place[None, :],
                mask=(part < rank)[:, None] & has_column[None, :],
                other=0.0,
            )
            product += tl.dot(left, right, input_precision="ieee")
        inside = (row < num_rows)[:, None] & has_column[None, :]
        target = total + row[:, None] * dim + place[None, :]
        value = tl.load(target, mask=inside, other=0.0).to(tl.float32)
        value += tl.where(_is_kept(numbers[e // 2], threshold, e % 2), product, 0.0)
        tl.store(target, value.to(total.dtype.element_ty), mask=inside)


def launch_keep(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """See `keep` of `siredon.ops.seeded_dropout`."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if kept.numel():
        grid, eighth = _divide(x, _KEEP)
        with torch.accelerator.device_index(x.device.index):
            _keep_kernel[grid](
                x,
                kept,
                seed,
                round(rate * 65536),
                *x.shape,
                eighth,
                x.stride(0),
                rows=_KEEP[0],
                columns=_KEEP[1],
                num_warps=4,
            )
    return kept


def launch_add_(total: Tensor, back: Tensor, a: Tensor, seed: Tensor, rate: float) -> None:
    """See `add_kept_` of `siredon.ops.seeded_dropout`."""
    if not total.numel():
        return
    back = back if back.stride(-1) == 1 else back.contiguous()
    a = a.contiguous()
    rank = a.shape[0]
    grid, eighth = _divide(total, _ADD)
    with torch.accelerator.device_index(total.device.index):
        _add_kernel[grid](
            total,
            back,
            a,
            seed,
            round(rate * 65536),
            *total.shape,
            eighth,
            rank,
            back.stride(0),
            width=max(16, min(_WIDTH, triton.next_power_of_2(rank))),
            rows=_ADD[0],
            columns=_ADD[1],
            num_warps=4,
        )


def _divide(x: Tensor, tile: tuple[int, int]) -> tuple[Any, int]:
    """Programs of a kernel for rows of eight eighths, and the width of an eighth."""
    num_rows, dim = x.shape
    eighth = triton.cdiv(dim, 8)
    return (triton.cdiv(eighth, tile[1]), triton.cdiv(num_rows, tile[0])), eighth
