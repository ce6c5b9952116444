"""Packs -> batch.

Positions restart at 0 with each document, and no attention mask is given: a causal model of
transformers reads documents off the positions and isolates them (with `use_cache=False`; see
`model/load.py`).  Padding stands to the right of everything, where a causal model cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from siredon.data.table import SampleTable
from siredon.data.types import IGNORE, Batch, Pack


class PackDataset(torch.utils.data.Dataset[Pack]):
    """Packs of a table, by index.

    Args:
        table: The samples.
        packs: Indices of samples, pack by pack; one index each where nothing is packed.
    """

    def __init__(self, table: SampleTable, packs: Sequence[Sequence[int]]) -> None:
        self.table = table
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> Pack:
        return tuple(self.table[sample] for sample in self.packs[index])


@dataclass(frozen=True)
class Collator:
    """Puts packs into one padded batch.

    Args:
        pad_id: The id that fills; no target, whatever else it stands for.
        pad_to: Length of every row; None pads to the longest, rounded up to a multiple of 8.
    """

    pad_id: int
    pad_to: int | None = None

    def __call__(self, packs: Sequence[Pack]) -> Batch:
        """Packs -> tensors of shape [B, T]."""
        longest = max(1, *(sum(len(sample.input_ids) for sample in pack) for pack in packs))
        length = self.pad_to or -(-longest // 8) * 8
        input_ids = torch.full((len(packs), length), self.pad_id, dtype=torch.long)
        labels = torch.full((len(packs), length), IGNORE, dtype=torch.long)
        position_ids = torch.zeros((len(packs), length), dtype=torch.long)
        for row, pack in enumerate(packs):
            start = 0
            for sample in pack:
                end = start + len(sample.input_ids)
                input_ids[row, start:end] = torch.from_numpy(sample.input_ids.astype("int64"))
                labels[row, start:end] = torch.from_numpy(sample.labels.astype("int64"))
                position_ids[row, start:end] = torch.arange(end - start)
                start = end
            # Padding goes on after a single document or none (so that a row of one needs no mask), and is a
            # document of its own after several.
            first = start if len(pack) < 2 else 0
            position_ids[row, start:] = torch.arange(first, first + length - start)
        num_tokens = torch.tensor([sum(len(sample.input_ids) for sample in pack) for pack in packs])
        return Batch(input_ids=input_ids, labels=labels, position_ids=position_ids, num_tokens=num_tokens)
