"""Outputs times learned numbers, and both gradients, in one pass each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from siredon.hardware import count_processors

#: Rows and columns of a tile.
_ROWS, _COLUMNS = 16, 128


@triton.jit  # type: ignore[untyped-decorator]
def _scale_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    y: tl.tensor,
    gains: tl.tensor,
    bias: tl.tensor,
    rest: tl.tensor,
    scaled: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    y_stride: tl.tensor,
    rest_stride: tl.tensor,
    has_bias: tl.constexpr,
    has_rest: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """A tile."""
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    has_column = column < dim
    inside = (row < num_rows)[:, None] & has_column[None, :]
    total = tl.load(y + row[:, None] * y_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    total *= tl.load(gains + column, mask=has_column, other=0.0)[None, :]
    if has_bias:
        total += tl.load(bias + column, mask=has_column, other=0.0).to(tl.float32)[None, :]
    if has_rest:
        place = rest + row[:, None] * rest_stride + column[None, :]
        total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(scaled + row[:, None] * dim + column[None, :], total.to(scaled.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    above: tl.tensor,
    y: tl.tensor,
    gains: tl.tensor,
    to_y: tl.tensor,
    sums: tl.tensor,
    num_rows: tl.tensor,
    dim: tl.tensor,
    per_program: tl.tensor,
    above_stride: tl.tensor,
    y_stride: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Some columns of some rows: the gradient of `y`, and the sum over these rows of that of the gains."""
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    has_column = column < dim
    gain = tl.load(gains + column, mask=has_column, other=0.0)
    total = tl.zeros((columns,), dtype=tl.float32)
    for begin in range(0, per_program, rows):
        row = part * per_program + begin + tl.arange(0, rows)
        inside = (row < num_rows)[:, None] & has_column[None, :]
        place = above + row[:, None] * above_stride + column[None, :]
        grad = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(y + row[:, None] * y_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(grad * value, axis=0)
        grad *= gain[None, :]
        tl.store(to_y + row[:, None] * dim + column[None, :], grad.to(to_y.dtype.element_ty), mask=inside)
    tl.store(sums + part * dim + column, total, mask=has_column)


def _even(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def launch_scale(y: Tensor, gains: Tensor, bias: Tensor | None, rest: Tensor | None) -> Tensor:
    """See `scale_outputs` of `siredon.ops.gains`; of shape [N, O]."""
    y, gains = _even(y), gains.contiguous()
    other = y if rest is None else _even(rest)
    scaled = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if scaled.numel():
        num_rows, dim = y.shape
        grid = (triton.cdiv(dim, _COLUMNS), triton.cdiv(num_rows, _ROWS))
        with torch.accelerator.device_index(y.device.index):
            _scale_kernel[grid](
                y,
                gains,
                gains if bias is None else bias.contiguous(),
                other,
                scaled,
                num_rows,
                dim,
                y.stride(0),
                other.stride(0),
                has_bias=bias is not None,
                has_rest=rest is not None,
                rows=_ROWS,
                columns=_COLUMNS,
                num_warps=4,
            )
    return scaled


def launch_backward(above: Tensor, y: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `y`, [N, O], and of the gains, [O], from that of the scaled outputs."""
    above, y, gains = _even(above), _even(y), gains.contiguous()
    to_y = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    num_rows, dim = y.shape
    if not to_y.numel():
        return to_y, torch.zeros_like(gains)
    blocks = triton.cdiv(dim, _COLUMNS)
    # As few sums as keep the memory busy
    parts = max(1, min(triton.cdiv(num_rows, _ROWS), 8 * count_processors(y.device) // blocks))
    per_program = triton.cdiv(triton.cdiv(num_rows, parts), _ROWS) * _ROWS
    parts = triton.cdiv(num_rows, per_program)
    sums = torch.empty((parts, dim), dtype=torch.float32, device=y.device)
    with torch.accelerator.device_index(y.device.index):
        _backward_kernel[(blocks, parts)](
            above,
            y,
            gains,
            to_y,
            sums,
            num_rows,
            dim,
            per_program,
            above.stride(0),
            y.stride(0),
            rows=_ROWS,
            columns=_COLUMNS,
            num_warps=4,
        )
    return to_y, sums.sum(0)
