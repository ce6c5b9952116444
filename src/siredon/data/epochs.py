"""Packs that are others in each epoch, and as many in each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from siredon.config.sections.batch import BatchSection
from siredon.config.sections.packing import PackingSection
from siredon.data.mix import Mixture
from siredon.data.pack import Indices, Packs, build_packs, keep_single
from siredon.distributed.ranks import num_ranks


@dataclass(frozen=True)
class Horizon:
    """How far a run goes.

    Args:
        num_epochs: Passes over the data.
        max_steps: Optimizer steps; wins over `num_epochs`.
        packs_per_step: Packs of an optimizer step, over all ranks.
    """

    num_epochs: float = 1.0
    max_steps: int | None = None
    packs_per_step: int = 1

    def is_reached(self, num_epochs: int, num_packs: int) -> bool:
        """Whether the run ends within so many epochs of `num_packs`."""
        if self.max_steps is None:
            return num_epochs >= self.num_epochs
        return num_epochs * math.ceil(num_packs / self.packs_per_step) >= self.max_steps


def build_horizon(batch: BatchSection) -> Horizon:
    """How far the run of a config goes."""
    packs = batch.micro_batch_size * batch.gradient_accumulation_steps * num_ranks()
    return Horizon(batch.num_epochs, batch.max_steps, packs)


@dataclass(frozen=True, eq=False)
class EpochPacks:
    """The packs of any epoch, made when they are asked for.

    Args:
        mixture: Draws the samples.
        lengths: Tokens per sample of the table, shape [N].
        packing: Whether and how samples are packed.
        capacity: Tokens per pack.
        num_packs: Packs of every epoch; None for as many as there are.
    """

    mixture: Mixture
    lengths: Indices
    packing: PackingSection
    capacity: int
    num_packs: int | None = None

    def __call__(self, epoch: int) -> Packs:
        """The packs of an epoch; they depend on the seed and its number alone."""
        packs = pack_samples(self.mixture.draw(epoch), self.lengths, self.packing, self.capacity)
        return packs if self.num_packs is None else packs.split_to(self.num_packs)


def pack_samples(order: Indices, lengths: Indices, packing: PackingSection, capacity: int) -> Packs:
    """Packs of chosen samples.

    Args:
        order: The samples, in order.
        lengths: Tokens per sample of the whole table, shape [N].
        packing: Whether and how they are packed.
        capacity: Tokens per pack.
    """
    packs = (
        build_packs(lengths[order], capacity, packing) if packing.sample_packing else keep_single(len(order))
    )
    return Packs(order[packs.indices], packs.offsets)


def count_packs(draw: EpochPacks, horizon: Horizon, multiple: int) -> int:
    """Packs of every epoch: those of the largest, up to a multiple.

    Epochs have equally many samples.  Packed, they differ by a few packs, so every epoch of the run is tried.
    """
    epoch, largest = 1, len(draw(0))
    while draw.packing.sample_packing and not horizon.is_reached(epoch, largest):
        largest = max(largest, len(draw(epoch)))
        epoch += 1
    return largest + -largest % multiple
