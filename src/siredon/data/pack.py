"""Samples -> packs: best-fit decreasing bin packing, or next-fit in the order of the rows.

Source: D. S. Johnson, "Near-optimal bin packing algorithms", PhD thesis, MIT, 1973.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siredon.config.sections.packing import PackingSection

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Packs:
    """Which samples share a sequence: two flat arrays, so that millions of rows are no Python objects.

    Args:
        indices: Samples, pack after pack, shape [N].
        offsets: Pack `i` has `indices[offsets[i] : offsets[i + 1]]`, shape [P + 1].
    """

    indices: Indices
    offsets: Indices

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Indices:
        if not -len(self) <= index < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        index %= len(self)
        return self.indices[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[Indices]:
        return (self[index] for index in range(len(self)))

    def count_tokens(self, lengths: Indices) -> Indices:
        """Tokens per pack, shape [P], of samples that have `lengths`, shape [N]."""
        ends = np.concatenate([[0], np.cumsum(lengths[self.indices])])
        return np.diff(ends[self.offsets])

    @property
    def num_filled(self) -> int:
        """Packs before the empty ones at the end."""
        return int(np.searchsorted(self.offsets, self.offsets[-1]))

    def fill(self, lengths: Indices, capacity: int) -> float:
        """The part of all packs that holds tokens, 0 to 1."""
        return int(lengths[self.indices].sum()) / (len(self) * capacity) if len(self) else 0.0

    def pad_to_multiple(self, multiple: int) -> Packs:
        """The same with empty packs at the end, so that each of several ranks gets as many batches as any other."""
        return self._add_empty(-len(self) % multiple)

    def split_to(self, num_packs: int) -> Packs:
        """The same rows in so many packs, no fewer than now: some are cut in two, empty ones only make up the rest."""
        missing = num_packs - len(self)
        inside = np.setdiff1d(np.arange(1, len(self.indices)), self.offsets)
        chosen = inside[np.arange(missing) * len(inside) // missing] if missing < len(inside) else inside
        cut = Packs(self.indices, np.sort(np.concatenate([self.offsets, chosen])))
        return cut._add_empty(num_packs - len(cut))

    def _add_empty(self, count: int) -> Packs:
        return Packs(self.indices, np.concatenate([self.offsets, np.repeat(self.offsets[-1:], count)]))


def build_packs(lengths: Indices, capacity: int, options: PackingSection) -> Packs:
    """Packs rows as the config says; what it gives depends on nothing else.

    Args:
        lengths: Tokens per row, in the order of the rows, shape [N]; each from 1 to `capacity`.
        capacity: Tokens per pack.
        options: The order, the size of a group, and the most rows of a pack.

    Returns:
        Every row in exactly one pack; each pack's rows ascending, packs in the order of their first row.

    Raises:
        ValueError: A row does not fit in any pack.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be from 1 to {capacity}, found {lengths.min()} to {lengths.max()}")
    most_rows = options.sample_packing_bin_size or max(1, len(lengths))
    if options.packs_in_order:
        return _fill_in_order(lengths, capacity, most_rows)
    size = options.sample_packing_group_size
    groups = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return _join([_fit_best(group, capacity, most_rows) for group in groups])


def keep_single(num_samples: int) -> Packs:
    """Packs of one sample each: nothing is packed."""
    return Packs(np.arange(num_samples), np.arange(num_samples + 1))


def gather_packs(packs: Sequence[Sequence[int]]) -> Packs:
    """Lists of samples -> packs."""
    sizes = np.asarray([0, *(len(pack) for pack in packs)], dtype=np.int64)
    indices = np.asarray([index for pack in packs for index in pack], dtype=np.int64)
    return Packs(indices, np.cumsum(sizes))


def _fill_in_order(lengths: Indices, capacity: int, most_rows: int) -> Packs:
    """Next-fit: a row that does not fit, or that is one too many, begins the next pack."""
    num_rows = len(lengths)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    after = np.searchsorted(ends, ends[:-1] + capacity, side="right") - 1
    after = np.minimum(after, np.arange(num_rows) + most_rows)
    offsets = [0]
    while offsets[-1] < num_rows:
        offsets.append(int(after[offsets[-1]]))
    return Packs(np.arange(num_rows), np.asarray(offsets, dtype=np.int64))


def _fit_best(lengths: Indices, capacity: int, most_rows: int) -> Packs:
    """Best-fit decreasing: rows, longest first, each into the fullest pack that still has room."""
    order = _sort(capacity - lengths, capacity)
    counts = np.bincount(lengths)
    values = np.flatnonzero(counts)[::-1]
    placed = _place(zip(values.tolist(), counts[values].tolist(), strict=True), capacity, most_rows)
    first, num_packs, rows_each = np.asarray(placed, dtype=np.int64).reshape(-1, 3).T
    num_rows = num_packs * rows_each
    within = np.arange(len(lengths)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows)
    pack_of = np.empty(len(lengths), dtype=np.int64)
    pack_of[order] = np.repeat(first, num_rows) + within // np.repeat(rows_each, num_rows)
    return _group(pack_of)


def _place(groups: Iterator[tuple[int, int]], capacity: int, most_rows: int) -> list[tuple[int, int, int]]:
    """Places groups of equally long rows, longest first.

    The fullest pack with room for a row is, with that row in it, the fullest again: it takes rows of this length
    until it has no room for one more.  So packs that are equally full are filled together, in one step.

    Args:
        groups: Length and number of rows, lengths descending.
        capacity: Tokens per pack.
        most_rows: Most rows per pack.

    Returns:
        Steps, in the order of the rows: first pack, number of packs, rows that each of these packs takes.
    """
    steps: list[tuple[int, int, int]] = []
    shelves = _Shelves(capacity, most_rows)
    for length, count in groups:
        while count:
            room, first, size, held = shelves.take(length) or shelves.open(length, count)
            each = min(room // length, most_rows - held)
            whole = min(size, count // each)
            if whole:
                steps.append((first, whole, each))
                shelves.put(room - each * length, first, whole, held + each)
                first, size, count = first + whole, size - whole, count - whole * each
            if size and count:
                steps.append((first, 1, count))
                shelves.put(room - count * length, first, 1, held + count)
                first, size, count = first + 1, size - 1, 0
            shelves.put(room, first, size, held)
    return steps


class _Shelves:
    """Packs that are still open, by room: runs of consecutive packs that are equally full.

    Args:
        capacity: Tokens per pack.
        most_rows: Most rows per pack.
    """

    def __init__(self, capacity: int, most_rows: int) -> None:
        self.capacity, self.most_rows = capacity, most_rows
        self.num_packs = 0
        # Run: first pack, number of packs, rows in each.  Bit r of `rooms` says whether `runs[r]` has any.
        self.runs: list[list[tuple[int, int, int]]] = [[] for _ in range(capacity + 1)]
        self.rooms = 0

    def take(self, length: int) -> tuple[int, int, int, int] | None:
        """The fullest packs with room for `length`: room, first pack, number of packs, rows in each."""
        fitting = self.rooms >> length
        if not fitting:
            return None
        room = length + (fitting & -fitting).bit_length() - 1
        first, size, held = self.runs[room].pop()
        if not self.runs[room]:
            self.rooms ^= 1 << room
        return room, first, size, held

    def open(self, length: int, count: int) -> tuple[int, int, int, int]:
        """As many empty packs as `count` rows of `length` need."""
        first, size = self.num_packs, -(-count // min(self.capacity // length, self.most_rows))
        self.num_packs += size
        return self.capacity, first, size, 0

    def put(self, room: int, first: int, size: int, held: int) -> None:
        """Keeps packs that are not full."""
        if size and room and held < self.most_rows:
            self.runs[room].append((first, size, held))
            self.rooms |= 1 << room


def _group(pack_of: Indices) -> Packs:
    """Pack of each row, shape [N], no pack empty -> packs, in the order of their first row."""
    sizes = np.bincount(pack_of)
    rows = _sort(pack_of, len(sizes))
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(rows[starts])
    offsets = np.concatenate([[0], np.cumsum(sizes[order])])
    shift = np.repeat(starts[order] - offsets[:-1], sizes[order])
    return Packs(rows[np.arange(len(rows)) + shift], offsets)


def _sort(keys: Indices, largest: int) -> Indices:
    """A stable argsort of keys from 0 to `largest`; two bytes are sorted by radix, several times as fast."""
    narrow = keys.astype(np.uint16) if largest < 2**16 else keys
    return np.argsort(narrow, kind="stable")


def _join(groups: Sequence[Packs]) -> Packs:
    """Packs of consecutive groups of rows -> packs of all rows."""
    indices, offsets = [np.zeros(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    num_rows = 0
    for group in groups:
        indices.append(group.indices + num_rows)
        offsets.append(group.offsets[1:] + num_rows)
        num_rows += len(group.indices)
    return Packs(np.concatenate(indices), np.concatenate(offsets))
