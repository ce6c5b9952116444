"""One source of a stream: its rows in order, from any place, again and again; and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np

from siredon.data.audit import Counts, check_counts
from siredon.data.load import Source
from siredon.data.rows import Indices, Rows
from siredon.data.samples import Recipe, make_samples
from siredon.data.table import SampleTable
from siredon.data.turns import Share
from siredon.data.types import Row
from siredon.errors import DataError

#: Rows whose numbers are written out at a time, for files that are read in one go.
_STRETCH = 1_000_000
#: Rows that are enough to tell that a source teaches something.
_ENOUGH_ROWS = 1_000


@dataclass(frozen=True)
class Portion:
    """Which rows of a source are used, and how.

    Args:
        skip: Rows at the start that are not.
        limit: Most rows; None for all.
        weight: See `Share`; None for the number of rows.
        repeats: It begins again after the last.
    """

    skip: int = 0
    limit: int | None = None
    weight: float | None = None
    repeats: bool = True


@dataclass(frozen=True, eq=False)
class Taken(Rows):
    """Rows in memory that know where they came from."""

    held: list[Row]
    source: Rows
    numbers: Indices

    def __len__(self) -> int:
        return len(self.held)

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        return (self.held[index] for index in indices.tolist())

    def place(self, index: int) -> str:
        """Where the source has it."""
        return self.source.place(int(self.numbers[index]))


@dataclass
class Feed:
    """A source of a stream.

    Args:
        name: How messages call it.
        rows: All of its rows.
        recipe: What makes samples of them.
        portion: Which rows are used.
        counts: What became of the rows that were read so far.
    """

    name: str
    rows: Rows
    recipe: Recipe
    portion: Portion = Portion()
    counts: Counts | None = None
    _is_sound: bool = False
    _running: Iterator[Row] = field(default_factory=lambda: iter(()))
    _next: int = -1

    def __post_init__(self) -> None:
        if not len(self):
            raise DataError(
                f"{self.name}: `skip: {self.portion.skip}` leaves none of {len(self.rows):,} rows",
                "Lower it.",
            )

    def __len__(self) -> int:
        """How many rows are used."""
        left = max(0, len(self.rows) - self.portion.skip)
        return left if self.portion.limit is None else min(left, self.portion.limit)

    @property
    def share(self) -> Share:
        """What it gives among others."""
        weight = len(self) if self.portion.weight is None else self.portion.weight
        return Share(float(weight), None if self.portion.repeats else len(self))

    def make(self, start: int, count: int) -> SampleTable:
        """Samples of the next `count` rows after `start`, both counted over all passes.

        Raises:
            DataError: Rows that cannot be used, or nothing to learn in all the rows so far.
        """
        table, counts = make_samples(Source(self.name, self._take(start, count)), self.recipe)
        self.counts = counts if self.counts is None else _add(self.counts, counts)
        if not self._is_sound and self.counts.num_rows >= min(_ENOUGH_ROWS, len(self)):
            entry = self.recipe.entry
            check_counts([self.counts], wants_stop=self.recipe.format.ends and entry.train_on_eos != "none")
            self._is_sound = True
        return table

    def _take(self, start: int, count: int) -> Taken:
        numbers = (start + np.arange(count)) % len(self) + self.portion.skip
        held: list[Row] = []
        cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), count]
        for first, last in pairwise(cuts):
            held += self._read(int(numbers[first]), last - first)
        return Taken(held, self.rows, numbers)

    def _read(self, first: int, count: int) -> Iterator[Row]:
        """Neighbouring rows.  Where a jump would read all before it again, one reading goes on from call to call."""
        if self.rows.jumps:
            return self.rows.read(np.arange(first, first + count))
        if first != self._next:
            self._running = self._run(first)
        self._next = first + count
        return islice(self._running, count)

    def _run(self, first: int) -> Iterator[Row]:
        for start in range(first, len(self.rows), _STRETCH):
            yield from self.rows.read(np.arange(start, min(start + _STRETCH, len(self.rows))))


def _add(one: Counts, other: Counts) -> Counts:
    return Counts(
        one.source,
        one.num_rows + other.num_rows,
        one.num_samples + other.num_samples,
        one.num_truncated + other.num_truncated,
        one.num_with_stop + other.num_with_stop,
        one.num_tokens + other.num_tokens,
        one.num_targets + other.num_targets,
        dict(Counter(one.dropped) + Counter(other.dropped)),
        (*one.examples, *other.examples)[:5],
    )
