"""Samples by the million, in flat arrays that may lie on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from siredon.data.types import Ids, Sample

#: 128 bits of a hash of each sample's ids and labels, shape [N, 2].
Digests = npt.NDArray[np.uint64]

#: Log-probability of each sample's learned tokens under a reference model, shape [N].
References = npt.NDArray[np.float32]

#: An odd number by which the digests of a group are told from those of the same samples in another order.
_MIX = np.uint64(0x9E3779B97F4A7C15)

#: Which answers are good, in a file of its own.
JUDGEMENTS = "judgements.npy"
#: The file of margins, beside a table that has any.
MARGINS = "margins.npy"

#: Tokens that a builder holds in memory.
MAX_HELD = 4_000_000


@dataclass(frozen=True)
class SampleTable:
    """Samples, stored end to end.

    Args:
        input_ids: All ids, shape [sum of T].
        labels: All labels, shape [sum of T].
        offsets: Sample `i` lies in `offsets[i] : offsets[i + 1]`, shape [N + 1].
        digests: What tells equal samples, shape [N, 2].
        counted_targets: All learned tokens.
        judgements: Whether the answer of each sample is good, shape [N]; None where answers are not judged.
        margins: Of each sample, by how much a better answer should be ahead, shape [N]; None where all are 0.
    """

    input_ids: Ids
    labels: Ids
    offsets: npt.NDArray[np.int64]
    digests: Digests
    counted_targets: int
    judgements: npt.NDArray[np.bool_] | None = None
    margins: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Sample:
        start, end = self.offsets[index], self.offsets[index + 1]
        judged = None if self.judgements is None else bool(self.judgements[index])
        margin = 0.0 if self.margins is None else float(self.margins[index])
        return Sample(self.input_ids[start:end], self.labels[start:end], is_desirable=judged, margin=margin)

    def take(self, index: int) -> tuple[Sample]:
        """One sample, as `JoinedTable.take` gives all that stay together."""
        return (self[index],)

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
        return self.counted_targets


class Samples(Protocol):
    """Samples by their index, in one table or several; those of a group have one index."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Sample:
        """One of them; the first of a group."""

    def take(self, index: int) -> tuple[Sample, ...]:
        """One of them; all of a group."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per sample, or of all the samples of each group, shape [N]."""


@dataclass(frozen=True)
class JoinedTable:
    """Several tables, one behind the other; none is copied.

    Samples that stay together, as the two of a pair, are a group: they are counted, chosen, compared and packed as one.

    Args:
        tables: The tables.
        group: Samples of a group, which stand one behind the other.
        reference: What is known of the samples by a reference model.
    """

    tables: tuple[SampleTable, ...]
    group: int = 1
    reference: References | None = None
    starts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(table) // self.group for table in self.tables]
        object.__setattr__(self, "starts", np.cumsum([0, *sizes], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        return self.take(index)[0]

    def take(self, index: int) -> tuple[Sample, ...]:
        """The samples of a group, in their order."""
        number = self.table_of(index)
        first = self.group * int(index - self.starts[number])
        known = None if self.reference is None else self.reference[self.group * index :]
        found = []
        for place in range(self.group):
            sample = self.tables[number][first + place]
            reference = None if known is None else float(known[place])
            found.append(replace(sample, source=number, reference=reference))
        return tuple(found)

    def tables_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The table of each of several groups, shape [N]."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def table_of(self, index: int) -> int:
        """The table that a group is in."""
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    @property
    def sample_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per sample, shape [N, group]."""
        return np.concatenate([table.lengths for table in self.tables]).reshape(-1, self.group)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per group, shape [N]."""
        lengths: npt.NDArray[np.int64] = self.sample_lengths.sum(axis=1)
        return lengths

    @property
    def unit(self) -> str:
        """What a group is, in the plural."""
        return "samples" if self.group == 1 else "pairs"

    def fingerprint(self) -> str:
        """A hash of all samples."""
        return hashlib.sha256(b"".join(part.digests.tobytes() for part in self.tables)).hexdigest()

    @property
    def digests(self) -> Digests:
        """What tells equal groups, shape [N, 2]."""
        each = np.concatenate([table.digests for table in self.tables]).reshape(-1, self.group, 2)
        mixed = each[:, 0].copy()
        for place in range(1, self.group):
            mixed = mixed * _MIX + each[:, place]
        return mixed


class TableBuilder:
    """Takes samples one by one; a table at the end.

    What is over `MAX_HELD` tokens goes to files without a name, which go with the table: memory stays flat.

    Args:
        folder: Where those files are; default the system's folder for such.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder is not None and folder.is_dir() else None
        self._held: tuple[list[Ids], list[Ids]] = ([], [])
        self._files: tuple[IO[bytes], IO[bytes]] | None = None
        self._num_held = self._num_targets = 0
        self._lengths: list[int] = []
        self._margins: list[float] = []
        self._digests: list[bytes] = []
        self._judgements: list[bool] = []

    def add(self, sample: Sample) -> None:
        """Adds one at the end."""
        digest = hashlib.blake2b(sample.input_ids.tobytes(), digest_size=16)
        digest.update(sample.labels.tobytes())
        if sample.is_desirable is not None:
            digest.update(bytes([sample.is_desirable]))
            self._judgements.append(sample.is_desirable)
        if sample.margin:
            digest.update(np.float32(sample.margin).tobytes())
        self._digests.append(digest.digest())
        for held, array in zip(self._held, (sample.input_ids, sample.labels), strict=True):
            held.append(array)
        self._lengths.append(len(sample.input_ids))
        self._margins.append(sample.margin)
        self._num_targets += sample.num_targets
        self._num_held += len(sample.input_ids)
        if self._num_held > MAX_HELD:
            self._spill()

    def _spill(self) -> None:
        if self._files is None:
            # They are closed when they are mapped
            one, other = (TemporaryFile(dir=self._folder) for _ in range(2))  # noqa: SIM115
            self._files = (one, other)
        for held, file in zip(self._held, self._files, strict=True):
            file.write(np.concatenate(held).tobytes())
            held.clear()
        self._num_held = 0

    def build(self) -> SampleTable:
        """The table of all that was added."""
        offsets = np.zeros(len(self._lengths) + 1, dtype=np.int64)
        np.cumsum(self._lengths, out=offsets[1:])
        digests = np.frombuffer(b"".join(self._digests), dtype=np.uint64).reshape(-1, 2)
        ids, labels = self._join()
        judgements = np.array(self._judgements, dtype=np.bool_) if self._judgements else None
        margins = np.array(self._margins, dtype=np.float32) if any(self._margins) else None
        return SampleTable(ids, labels, offsets, digests, self._num_targets, judgements, margins)

    def _join(self) -> tuple[Ids, Ids]:
        if self._files is None:
            empty = [np.zeros(0, dtype=np.int32)]
            ids, labels = (np.concatenate(held or empty) for held in self._held)
            return ids, labels
        if self._num_held:
            self._spill()
        for file in self._files:
            file.flush()
        ids, labels = (np.memmap(file, dtype=np.int32, mode="r") for file in self._files)
        for file in self._files:
            file.close()
        return ids, labels


def build_table(samples: Iterable[Sample]) -> SampleTable:
    """Puts samples into a table."""
    builder = TableBuilder()
    for sample in samples:
        builder.add(sample)
    return builder.build()


def find_repeated(digests: Digests, among: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a sample equals one before it, for each of `among`, in their order."""
    chosen = digests[np.asarray(among, dtype=np.int64)]
    _, first = np.unique(_as_keys(chosen), return_index=True)
    repeated = np.ones(len(chosen), dtype=bool)
    repeated[first] = False
    return repeated


def find_shared(
    digests: Digests, ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether a sample equals one of `others`, for each of `ones`."""
    return np.isin(_as_keys(digests[ones]), _as_keys(digests[others]))


def _as_keys(digests: Digests) -> npt.NDArray[Any]:
    """One value a sample that can be sorted."""
    pairs = np.dtype([("high", np.uint64), ("low", np.uint64)])
    return np.ascontiguousarray(digests).view(pairs).reshape(-1)


def save_table(table: SampleTable, folder: Path) -> None:
    """Writes the arrays into an existing folder."""
    for name in ("input_ids", "labels", "offsets", "digests"):
        np.save(folder / f"{name}.npy", vars(table)[name])
    if table.judgements is not None:
        np.save(folder / JUDGEMENTS, table.judgements)
    if table.margins is not None:
        np.save(folder / MARGINS, table.margins)


def load_table(folder: Path, num_targets: int) -> SampleTable:
    """Maps the arrays from disk; nothing is read until it is used.

    Raises:
        OSError: A file is not there.
        ValueError: A file is damaged, or the files are not of one table.
    """
    table = SampleTable(
        np.load(folder / "input_ids.npy", mmap_mode="r"),
        np.load(folder / "labels.npy", mmap_mode="r"),
        np.load(folder / "offsets.npy"),
        np.load(folder / "digests.npy"),
        num_targets,
        np.load(folder / JUDGEMENTS) if (folder / JUDGEMENTS).exists() else None,
        np.load(folder / MARGINS) if (folder / MARGINS).is_file() else None,
    )
    _check_table(table)
    return table


def _check_table(table: SampleTable) -> None:
    offsets = table.offsets
    if offsets.ndim != 1 or offsets.dtype != np.int64 or len(offsets) == 0:
        raise ValueError("no offsets")
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError("offsets out of order")
    if table.margins is not None and table.margins.shape != (len(table),):
        raise ValueError("margins of another number of samples")
    for array, dtype, shape in (
        (table.input_ids, np.int32, (table.num_tokens,)),
        (table.labels, np.int32, (table.num_tokens,)),
        (table.digests, np.uint64, (len(table), 2)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{array.dtype} of shape {array.shape}, not {dtype.__name__} of shape {shape}")
    judged = table.judgements
    if judged is not None and (judged.dtype != np.bool_ or judged.shape != (len(table),)):
        raise ValueError(f"judgements of shape {judged.shape} for {len(table)} samples")
