"""Samples by the million, in three flat arrays that may lie on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siredon.data.types import IGNORE, Ids, Sample


@dataclass(frozen=True)
class SampleTable:
    """Samples, stored end to end.

    Args:
        input_ids: All ids, shape [sum of T].
        labels: All labels, shape [sum of T].
        offsets: Sample `i` lies in `offsets[i] : offsets[i + 1]`, shape [N + 1].
    """

    input_ids: Ids
    labels: Ids
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Sample:
        start, end = self.offsets[index], self.offsets[index + 1]
        return Sample(self.input_ids[start:end], self.labels[start:end])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per sample, shape [N]."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """All tokens."""
        return int(self.offsets[-1])

    @property
    def num_targets(self) -> int:
        """All learned tokens."""
        return int((self.labels != IGNORE).sum())

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> SampleTable:
        """The samples at `indices`, in that order."""
        return build_table(self[int(index)] for index in indices)


def build_table(samples: Iterable[Sample]) -> SampleTable:
    """Puts samples into a table."""
    rows = list(samples)
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row.input_ids) for row in rows], out=offsets[1:])
    empty = [np.zeros(0, dtype=np.int32)]
    ids = np.concatenate([row.input_ids for row in rows] or empty)
    labels = np.concatenate([row.labels for row in rows] or empty)
    return SampleTable(ids, labels, offsets)


def save_table(table: SampleTable, folder: Path) -> None:
    """Writes the three arrays into an existing folder."""
    np.save(folder / "input_ids.npy", table.input_ids)
    np.save(folder / "labels.npy", table.labels)
    np.save(folder / "offsets.npy", table.offsets)


def load_table(folder: Path) -> SampleTable:
    """Maps the three arrays from disk; nothing is read until it is used."""
    return SampleTable(
        np.load(folder / "input_ids.npy", mmap_mode="r"),
        np.load(folder / "labels.npy", mmap_mode="r"),
        np.load(folder / "offsets.npy"),
    )
