"""The order of training rows, where it is not their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from siredon.data.collate import MixedDataset, PackDataset
from siredon.data.group import group_by_length
from siredon.data.pack import Packs


class ShuffledSampler(Sampler[int]):
    """Rows in random order, another one each epoch: that of accelerate's sampler, from the seed and the epoch alone.

    The epoch is the run's own count: whether `set_epoch` of a loader reaches its sampler depends on what lies between
    them, and a resumed loader of several ranks has one wrapper more.

    Empty packs, which fill the last batches of several ranks, come last: so the order of the others does not depend on
    the number of ranks.

    Args:
        packs: What is trained on.
        seed: Seed of the order.
        epoch: Says which epoch begins.
    """

    def __init__(self, packs: Packs, seed: int, epoch: Callable[[], int]) -> None:
        self.packs = packs
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.packs)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        order = torch.randperm(self.packs.num_filled, generator=generator).tolist()
        return iter([*order, *range(len(order), len(self.packs))])


class LengthSampler(Sampler[int]):
    """Rows of like length together, in another order each epoch.

    Args:
        dataset: What is trained on.
        size: Rows of a micro-batch, over all ranks.
        seed: Seed of the order.
        epoch: Says which epoch begins; see `ShuffledSampler`.
    """

    def __init__(self, dataset: PackDataset, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = dataset.lengths
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(group_by_length(self.lengths, self.size, self.seed, self.epoch()).tolist())


class MixedSampler(Sampler[int]):
    """The packs that a mixture draws for each epoch, in random order.

    Args:
        dataset: What is trained on.
        size: Rows of a micro-batch, over all ranks, if rows of like length share one; None if they need not.
        seed: Seed of the order.
        epoch: Says which epoch begins; see `ShuffledSampler`.
    """

    def __init__(self, dataset: MixedDataset, size: int | None, seed: int, epoch: Callable[[], int]) -> None:
        self.dataset = dataset
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        epoch, num_packs = self.epoch(), len(self.dataset)
        if self.size is None:
            # A stream of its own: the mixture draws from `[seed, epoch]`.
            order = np.random.default_rng([self.seed, epoch, 1]).permutation(num_packs)
        else:
            lengths = self.dataset.packs_of(epoch).count_tokens(self.dataset.table.lengths)
            order = group_by_length(lengths, self.size, self.seed, epoch)
        return iter((epoch * num_packs + order).tolist())
