"""Which rows of a source are used: split and slice, shuffle, part, at most so many."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from siredon.config.sections.data import DatasetEntry
from siredon.data.rows import Indices, Rows, join_rows, select_rows
from siredon.errors import DataError

_SLICE = re.compile(
    r"(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?:(?P<start>-?[\d_]+)(?P<start_percent>%)?)?:(?:(?P<stop>-?[\d_]+)(?P<stop_percent>%)?)?\])?"
    r"(?:\((?P<rounding>\w+)\))?"
)
_HOW = "Write it like `train`, `train[:10%]`, `train[100:200]` or `train+validation`."


@dataclass(frozen=True)
class Slice:
    """A part of `split:`.

    Args:
        split: Name of the split.
        start: First row, or per cent; negative ones count from the end.
        stop: The row after the last, or per cent.
        percent: Whether they are per cent.
        whole: Per cent are of equal size, and what does not divide is left over (`pct1_dropremainder`).
    """

    split: str
    start: int | None = None
    stop: int | None = None
    percent: bool = False
    whole: bool = False

    def bounds(self, count: int) -> tuple[int, int]:
        """First row and the row after the last, of `count` rows."""
        start = 0 if self.start is None else self._row(self.start, count)
        stop = count if self.stop is None else self._row(self.stop, count)
        start, stop = (max(count + end, 0) if end < 0 else min(end, count) for end in (start, stop))
        return start, max(start, stop)

    def _row(self, number: int, count: int) -> int:
        if not self.percent:
            return number
        return number * math.trunc(count / 100) if self.whole else round(number * count / 100)


def read_split(text: str, label: str) -> list[Slice]:
    """The parts of `split:`, in the grammar of `datasets`.

    Raises:
        DataError: It is written in another way.
    """
    return [_read_slice(part.strip(), label) for part in text.split("+")]


def _read_slice(text: str, label: str) -> Slice:
    found = _SLICE.fullmatch(text)
    if found is None or found["rounding"] not in (None, "closest", "pct1_dropremainder"):
        raise DataError(f"{label}: `split: {text}` is no split", _HOW)
    ends = [found["start"], found["stop"]]
    units = {bool(found[f"{name}_percent"]) for name in ("start", "stop") if found[name]}
    if len(units) > 1:
        raise DataError(f"{label}: `split: {text}` mixes rows and per cent", _HOW)
    percent = units == {True}
    start, stop = (None if end is None else int(end) for end in ends)
    if percent and any(abs(end or 0) > 100 for end in (start, stop)):
        raise DataError(f"{label}: `split: {text}` goes over 100 %", _HOW)
    return Slice(found["split"], start, stop, percent, found["rounding"] == "pct1_dropremainder")


def choose_split(splits: Mapping[str, Callable[[], Rows]], split: str | None, label: str) -> Rows:
    """The rows that `split:` asks for; without it `train`, or the only split.

    Args:
        splits: By name, what opens each.
        split: The key.
        label: How messages call the source.

    Raises:
        DataError: There is no such split.
    """
    if split is None:
        split = next(iter(splits)) if len(splits) == 1 else "train"
    parts = read_split(split, label)
    if [part.split for part in parts] == ["all"] and "all" not in splits:
        return join_rows(open_rows() for open_rows in splits.values())
    opened: dict[str, Rows] = {}
    chosen = []
    for part in parts:
        if part.split not in splits:
            known = ", ".join(f"`{name}`" for name in splits)
            raise DataError(f"{label}: there is no split `{part.split}`", f"Set `split`; there are: {known}.")
        if part.split not in opened:
            opened[part.split] = splits[part.split]()
        rows = opened[part.split]
        chosen.append(select_rows(rows, np.arange(*part.bounds(len(rows)))))
    return join_rows(chosen)


def draws_order(entry: DatasetEntry) -> bool:
    """Whether the rows depend on the seed."""
    return entry.shuffle or entry.shards is not None


def choose_rows(rows: Rows, entry: DatasetEntry, seed: int, limit: int | None) -> Rows:
    """Shuffled if asked for; of `shards` parts, shuffled first, the one that is used; at most `limit`.

    The order is that of `datasets`: `shuffle(seed=seed)`, then `shard(shards, shards_idx)`.

    Raises:
        DataError: More parts than rows.
    """
    order: Indices = np.arange(len(rows))
    if draws_order(entry):
        order = np.random.default_rng(seed).permutation(len(rows))
    if entry.shards is not None:
        number = entry.shards_idx or 0
        if entry.shards > len(rows):
            raise DataError(
                f"{entry.path}: `shards: {entry.shards}` are more parts than the {len(rows):,} rows",
                "Lower `shards`.",
            )
        start, stop = list(part_bounds(len(rows), entry.shards))[number]
        order = order[start:stop]
    return select_rows(rows, order[:limit])


def part_bounds(count: int, num_parts: int) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each of the parts, whose sizes differ by one at most."""
    size, over = divmod(count, num_parts)
    start = 0
    for number in range(num_parts):
        stop = start + size + (number < over)
        yield start, stop
        start = stop
