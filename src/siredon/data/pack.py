"""Samples -> packs: best-fit decreasing bin packing.

Source: D. S. Johnson, "Near-optimal bin packing algorithms", PhD thesis, MIT, 1973.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack_best_fit(lengths: Sequence[int] | npt.NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Puts samples, longest first, each into the fullest pack that still has room.

    Args:
        lengths: Tokens per sample, shape [N]; each from 1 to `capacity`.
        capacity: Tokens per pack.

    Returns:
        Indices of samples, pack by pack: every index exactly once, each pack's indices ascending,
        packs in the order of their first sample.

    Raises:
        ValueError: A sample does not fit in any pack.
    """
    array = np.asarray(lengths, dtype=np.int64)
    if len(array) and (array.min() < 1 or array.max() > capacity):
        raise ValueError(f"lengths must be from 1 to {capacity}, found {array.min()} to {array.max()}")
    packs: list[list[int]] = []
    # open_packs[r]: packs with exactly r tokens of room; bit r of `rooms` tells whether there are any.
    open_packs: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for index in np.argsort(-array, kind="stable").tolist():
        length = int(array[index])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = open_packs[room].pop()
            if not open_packs[room]:
                rooms &= ~(1 << room)
            packs[pack].append(index)
        else:
            room, pack = capacity, len(packs)
            packs.append([index])
        left = room - length
        if left:
            open_packs[left].append(pack)
            rooms |= 1 << left
    for members in packs:
        members.sort()
    return sorted(packs, key=lambda members: members[0])


def fill(
    packs: Sequence[Sequence[int]], lengths: Sequence[int] | npt.NDArray[np.int64], capacity: int
) -> float:
    """The part of all packs that holds tokens, 0 to 1."""
    total = sum(int(lengths[index]) for pack in packs for index in pack)
    return total / (len(packs) * capacity) if packs else 0.0
