"""Tensors of any leading dims as rows of their last one, for kernels that go through them row by row."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """Row r of a tensor begins at element `(r // inner) * outer + (r % inner) * step`.

    Args:
        tensor: What the rows are of; its last dim is contiguous.
        inner: Rows that lie `step` apart; 1 where all rows have the same distance.
        outer: Elements from one group of inner rows to the next.
        step: Elements from row to row within a group.
    """

    tensor: Tensor
    inner: int
    outer: int
    step: int


def fold_rows(x: Tensor) -> Rows:
    """Rows of a tensor [..., D], copied only where its leading dims take more than two distances."""
    if x.is_contiguous():
        return Rows(x, 1, x.shape[-1], 0)
    if x.stride(-1) == 1:
        found: list[tuple[int, int]] = []
        for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
            if size == 1:
                continue
            if found and found[-1][0] * found[-1][1] == stride:
                found[-1] = (found[-1][0] * size, found[-1][1])
            else:
                found.append((size, stride))
        if len(found) == 1:
            return Rows(x, 1, found[0][1], 0)
        if len(found) == 2:
            return Rows(x, found[0][0], found[1][1], found[0][1])
    return fold_rows(x.contiguous())


def count_rows(x: Tensor) -> int:
    """Rows of a tensor [..., D]; 0 if it has no elements."""
    return x.numel() // x.shape[-1] if x.numel() else 0
