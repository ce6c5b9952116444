"""Rows that stay in their files: counted once, read in any order, a block at a time, each with its place.

`Rows` is what every kind of source becomes.  `Joined`, `Selected` and `Spooled` are made of other rows.
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from siredon.data.scratch import Scratch
from siredon.data.types import Row

#: Numbers of rows, counted from 0.
Indices = npt.NDArray[np.int64]

#: Rows that are held as Python objects at a time.
BLOCK_ROWS = 1_000


class Rows(Sequence[Row]):
    """Rows of a source.  No file stays open between two calls, so that processes may share them."""

    #: Whether rows far apart are read without what lies between them.
    jumps = True

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend.

        Raises:
            DataError: A row that cannot be read, with its place; the next few of them are named too.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Where a row stands, for messages: file and row."""

    def __iter__(self) -> Iterator[Row]:
        return self.read(np.arange(len(self)))

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return select_rows(self, np.arange(len(self))[index])
        return next(self.read(np.array([range(len(self))[index]])))


@dataclass(frozen=True, eq=False)
class Joined(Rows):
    """The rows of several sources, one after another."""

    parts: tuple[Rows, ...]

    @cached_property
    def _ends(self) -> Indices:
        return np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    @property
    def jumps(self) -> bool:  # type: ignore[override]
        """Whether all of its parts can."""
        return all(part.jumps for part in self.parts)

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        first = 0
        for part, end, cut in zip(self.parts, self._ends, np.searchsorted(indices, self._ends), strict=True):
            if cut > first:
                yield from part.read(indices[first:cut] - (end - len(part)))
            first = cut

    def place(self, index: int) -> str:
        """Where the part has it."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part.place(index - int(self._ends[number]) + len(part))


@dataclass(frozen=True, eq=False)
class Selected(Rows):
    """Some rows of others, in an order of its own; use `select_rows`."""

    rows: Rows
    order: Indices

    def __len__(self) -> int:
        return len(self.order)

    @property
    def jumps(self) -> bool:  # type: ignore[override]
        """Whether the rows that it chooses from can."""
        return self.rows.jumps

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        wanted = self.order[indices]
        if _ascends(wanted):
            yield from self.rows.read(wanted)
            return
        for start in range(0, len(wanted), BLOCK_ROWS):
            ascending, where = np.unique(wanted[start : start + BLOCK_ROWS], return_inverse=True)
            block = list(self.rows.read(ascending))
            yield from (block[number] for number in where.tolist())

    def place(self, index: int) -> str:
        """Where the row that was chosen stands."""
        return self.rows.place(int(self.order[index]))


@dataclass(frozen=True, eq=False)
class Spooled(Rows):
    """Rows written down in a temporary file, for those that cannot be read twice or in any order.

    Args:
        source: Where they came from, for their places.
        origins: Number of each row in `source`.
        starts: Where each row begins in `file`, and where the last one ends.
        file: The pickled rows, of this process only.
        scratch: Removes the file when the rows are gone.
    """

    source: Rows
    origins: Indices
    starts: Indices
    file: Path
    scratch: Scratch

    def __len__(self) -> int:
        return len(self.origins)

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        with self.file.open("rb") as stream:
            for start in self.starts[indices].tolist():
                if stream.tell() != start:
                    stream.seek(start)
                yield pickle.load(stream)  # noqa: S301  written by this process, in a folder of its own

    def place(self, index: int) -> str:
        """Where the row came from."""
        return self.source.place(int(self.origins[index]))


def join_rows(parts: Iterable[Rows]) -> Rows:
    """The rows of all parts, in order."""
    several = tuple(parts)
    return several[0] if len(several) == 1 else Joined(several)


def select_rows(rows: Rows, order: Indices) -> Rows:
    """The rows with these numbers, in this order."""
    if len(order) == len(rows) and (order == np.arange(len(rows))).all():
        return rows
    if isinstance(rows, Selected):
        return select_rows(rows.rows, rows.order[order])
    if rows.jumps or _ascends(order):
        return Selected(rows, order)
    ascending, where = np.unique(order, return_inverse=True)
    return Selected(spool_rows(Selected(rows, ascending)), where)


def spool_rows(
    rows: Rows, change: Callable[[Row, int], Any] = lambda row, _: row, limit: int | None = None
) -> Rows:
    """The rows written down once, each as `change` makes it; at most `limit` of them.

    Args:
        rows: The rows.
        change: A row and its number -> the row to keep, or None for none.
        limit: Stops after this many that are kept.
    """
    scratch = Scratch()
    file = scratch.new_file("rows")
    starts, origins = array("q", [0]), array("q")
    with file.open("wb") as stream:
        for index, row in enumerate(rows):
            if len(origins) == limit:
                break
            kept = change(row, index)
            if kept is not None:
                pickle.dump(kept, stream, protocol=pickle.HIGHEST_PROTOCOL)
                starts.append(stream.tell())
                origins.append(index)
    return Spooled(rows, np.array(origins, np.int64), np.array(starts, np.int64), file, scratch)


def _ascends(order: Indices) -> bool:
    return bool((order[1:] > order[:-1]).all())
