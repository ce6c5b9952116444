"""The order of training rows, where it is neither random nor their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler

from siredon.data.collate import PackDataset
from siredon.data.group import group_by_length


class LengthSampler(Sampler[int]):
    """Rows of like length together, in another order each epoch.

    Args:
        dataset: What is trained on.
        size: Rows of a micro-batch, over all ranks.
        seed: Seed of the order.
        epoch: Says which epoch begins.  (`set_epoch` of accelerate does not reach a sampler behind a resumed loader
            of several ranks.)
    """

    def __init__(self, dataset: PackDataset, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = dataset.lengths
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(group_by_length(self.lengths, self.size, self.seed, self.epoch()).tolist())
