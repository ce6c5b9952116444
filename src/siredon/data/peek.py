"""The first rows of a data set, where a format must know them before it can read any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from siredon.config.sections.data import DatasetEntry
from siredon.data.load import load_rows
from siredon.data.types import Row

#: How many rows are looked at.
NUM_ROWS = 20


def first_rows(entry: DatasetEntry) -> Sequence[Row]:
    """The first rows; read once, as a format is built more than once in a run.

    Raises:
        DataError: The data set cannot be read.
    """
    return _load(entry.model_dump_json(), _stamp(Path(entry.path).expanduser()))


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a local file does; empty for the hub."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=32)
def _load(entry: str, stamp: tuple[tuple[str, int, int], ...]) -> Sequence[Row]:
    del stamp  # A part of the key
    few = DatasetEntry.model_validate_json(entry).model_copy(update={"max_samples": NUM_ROWS})
    return tuple(dict(row) for row in islice(load_rows(few).rows, NUM_ROWS))
