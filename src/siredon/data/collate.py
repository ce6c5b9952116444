"""Packs -> batch.

Positions restart at 0 with each document, and no attention mask is given: a causal model of
transformers reads documents off the positions and isolates them (with `use_cache=False`; see
`model/load.py`).  Padding stands to the right of everything, where a causal model cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siredon.config.sections.packing import PackingSection
from siredon.data.pack import Indices, Packs, gather_packs
from siredon.data.table import Samples
from siredon.data.types import IGNORE, Batch, Pack


class PackDataset:
    """Packs of a table, by index: what PyTorch calls a map-style dataset.

    Args:
        table: The samples.
        packs: Indices of samples, pack by pack; one index each where nothing is packed.
    """

    def __init__(self, table: Samples, packs: Packs | Sequence[Sequence[int]]) -> None:
        self.table = table
        self.packs = packs if isinstance(packs, Packs) else gather_packs(packs)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> Pack:
        return self._take(self.packs[index])

    def _take(self, indices: Indices) -> Pack:
        return tuple(sample for index in indices for sample in self.table.take(int(index)))

    @property
    def lengths(self) -> Indices:
        """Tokens per pack, shape [P]."""
        return self.packs.count_tokens(self.table.lengths)


class MixedDataset(PackDataset):
    """Packs that are others in each epoch; index `epoch * len(self) + place` is one of them.

    Args:
        table: The samples.
        draw: Number of an epoch -> its packs, equally many each time.
    """

    def __init__(self, table: Samples, draw: Callable[[int], Packs]) -> None:
        super().__init__(table, draw(0))
        self._draw = draw
        self._last = (0, self.packs)

    def __getitem__(self, index: int) -> Pack:
        epoch, place = divmod(index, len(self))
        return self._take(self.packs_of(epoch)[place])

    def packs_of(self, epoch: int) -> Packs:
        """The packs of an epoch; those of the last one asked for are kept."""
        if self._last[0] != epoch:
            self._last = (epoch, self._draw(epoch))
        return self._last[1]


@dataclass(frozen=True)
class Collator:
    """Puts packs into one padded batch.

    Args:
        pad_id: The id that fills; no target, whatever else it stands for.
        pad_to: Length of every pack; None pads to the longest, rounded up.
        multiple: Lengths are rounded up to a multiple of this.
        flatten: The packs lie end to end in one row, which is padded as a whole, and not each in a row of its own.
        shortest: No row is shorter.
        marks_sources: Batches say of which data set each token is.
        marks_samples: Batches say of which sample each token is, and of which pack each sample; see `Batch`.
    """

    pad_id: int
    pad_to: int | None = None
    multiple: int = 8
    flatten: bool = False
    shortest: int = 1
    marks_sources: bool = False
    marks_samples: bool = False

    def __call__(self, packs: Sequence[Pack]) -> Batch:
        """Packs -> tensors of shape [B, T], or [1, T] where packs lie end to end; `num_tokens` of shape [B]."""
        import torch  # Preparing data takes none

        rows = [tuple(sample for pack in packs for sample in pack)] if self.flatten else packs
        shape = (len(rows), self._length(rows, len(packs)))
        input_ids = np.full(shape, self.pad_id, dtype=np.int64)
        labels = np.full(shape, IGNORE, dtype=np.int64)
        position_ids = np.zeros(shape, dtype=np.int64)
        for row, samples in enumerate(rows):
            start = 0
            for sample in samples:
                end = start + len(sample.input_ids)
                input_ids[row, start:end] = sample.input_ids
                labels[row, start:end] = sample.labels
                position_ids[row, start:end] = np.arange(end - start)
                start = end
            # Padding goes on after a single document or none (so that a row of one needs no mask), and is a
            # document of its own after several.
            first = start if len(samples) < 2 else 0
            position_ids[row, start:] = np.arange(first, first + shape[1] - start)
        batch = Batch(
            input_ids=torch.from_numpy(input_ids),
            labels=torch.from_numpy(labels),
            position_ids=torch.from_numpy(position_ids),
            num_tokens=torch.tensor([_count_tokens(pack) for pack in packs]),
        )
        if self.marks_sources:
            batch["sources"] = torch.from_numpy(_mark_sources(rows, shape))
        if self.marks_samples:
            batch["samples"] = torch.from_numpy(_mark_samples(rows, shape))
            batch["packs"] = torch.tensor([number for number, pack in enumerate(packs) for _ in pack]).long()
            known = [sample.reference for pack in packs for sample in pack]
            if None not in known:
                batch["reference"] = torch.tensor(known, dtype=torch.float32)
            margins = [sample.margin for pack in packs for sample in pack]
            if any(margins):
                batch["margins"] = torch.tensor(margins, dtype=torch.float32)
        return batch

    def _length(self, rows: Sequence[Pack], num_packs: int) -> int:
        if self.pad_to:
            return max(self.shortest, self.pad_to * (num_packs if self.flatten else 1))
        longest = max(self.shortest, *(_count_tokens(row) for row in rows))
        return -(-longest // self.multiple) * self.multiple


def build_collator(pad_id: int, sequence_len: int, options: PackingSection, *, flatten: bool) -> Collator:
    """The collator that the config asks for.

    Args:
        pad_id: The id that fills.
        sequence_len: Length of a pack, in tokens.
        options: How far batches are padded.
        flatten: Packs lie end to end; see `Config.flattens_batches`.
    """
    # Rows of a length that is no multiple of 8 are slow on GPUs; one row of all has no such neighbours to match.
    multiple = options.pad_to_multiple_of or (1 if flatten else 8)
    return Collator(pad_id, sequence_len if options.pads_fully else None, multiple, flatten)


def _mark_sources(rows: Sequence[Pack], shape: tuple[int, int]) -> Indices:
    """The data set of each token, shape [B, T]; that of padding is 0."""
    sources = np.zeros(shape, dtype=np.int64)
    for row, samples in enumerate(rows):
        lengths = [len(sample.input_ids) for sample in samples]
        sources[row, : sum(lengths)] = np.repeat([sample.source for sample in samples], lengths)
    return sources


def _mark_samples(rows: Sequence[Pack], shape: tuple[int, int]) -> Indices:
    """The number of the sample that each token is of, shape [B, T]; that of padding is the one behind the last."""
    numbers = np.full(shape, sum(len(samples) for samples in rows), dtype=np.int64)
    first = 0
    for row, samples in enumerate(rows):
        lengths = [len(sample.input_ids) for sample in samples]
        numbers[row, : sum(lengths)] = np.repeat(np.arange(first, first + len(samples)), lengths)
        first += len(samples)
    return numbers


def _count_tokens(pack: Pack) -> int:
    return sum(len(sample.input_ids) for sample in pack)
