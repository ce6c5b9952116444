"""How much of a tensor a program of a kernel has in hand, where rows are read whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siredon.hardware import count_processors

if TYPE_CHECKING:
    import torch

#: Elements that a program has at least, and those of a thread; the most warps of a program.
_LEAST, _PER_THREAD, _MOST_WARPS = 2048, 16, 16


def choose_tile(dim: int) -> tuple[int, int, int]:
    """Rows and columns of a program's tile, both powers of 2, and its warps, for rows of `dim` elements."""
    block = max(16, 1 << (dim - 1).bit_length())
    rows = max(1, _LEAST // block)
    warps = 1 << max(0, (rows * min(block, dim) - 1) // (32 * _PER_THREAD)).bit_length()
    return rows, block, max(4, min(_MOST_WARPS, warps))


def count_programs(device: torch.device, elements: int) -> int:
    """Programs that go through all rows together: as few as keep the memory busy, since each leaves a sum."""
    return count_processors(device) * max(2, min(8, 8192 // elements))
