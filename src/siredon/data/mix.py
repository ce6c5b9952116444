"""Several data sets, interleaved by weight: which samples an epoch has, and in which order.

The shares of an epoch are exact, not drawn: every epoch has equally many samples of each data set, so that steps
can be counted before training.  Which samples these are, and where they stand, is drawn anew for each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siredon.data.pack import Indices

Strategy = Literal["first_exhausted", "all_exhausted"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data sets and their weights; any epoch can be drawn from it, whatever was drawn before.

    Args:
        pools: The samples of each data set, none empty.
        weights: The weight of each.
        strategy: Which data set ends an epoch.
        seed: Seed of all draws.
    """

    pools: tuple[Indices, ...]
    weights: tuple[float, ...]
    strategy: Strategy
    seed: int

    @property
    def counts(self) -> Indices:
        """Samples of each data set in an epoch."""
        return count_draws([len(pool) for pool in self.pools], self.weights, self.strategy)

    def draw(self, epoch: int) -> Indices:
        """The samples of an epoch, in order."""
        sizes = [len(pool) for pool in self.pools]
        return np.concatenate(self.pools)[draw_epoch(sizes, self.weights, self.strategy, self.seed, epoch)]


def count_draws(sizes: Sequence[int], weights: Sequence[float], strategy: Strategy) -> Indices:
    """Samples of each data set in an epoch, shape [S], in proportion to the weights.

    Args:
        sizes: Samples of each data set, at least 1.
        weights: Weight of each, over 0.
        strategy: `first_exhausted`: one data set is used up, and none repeats; `all_exhausted`: every data set is
            used up, and one does not repeat.

    Returns:
        Shares to the nearest sample, and at least one of each data set.
    """
    size, share = np.asarray(sizes), np.asarray(weights) / np.sum(weights)
    if strategy == "first_exhausted":
        counts = np.clip(np.rint((size / share).min() * share), 1, size)
    else:
        counts = np.maximum(np.rint((size / share).max() * share), size)
    return np.asarray(counts, dtype=np.int64)


def draw_epoch(
    sizes: Sequence[int], weights: Sequence[float], strategy: Strategy, seed: int, epoch: int
) -> Indices:
    """The samples of an epoch, in order, as indices into all data sets one behind the other.

    Each place is of data set `i` with probability `weights[i] / sum(weights)`.  A data set is walked in a random
    order, without taking a sample twice; where that has come to its end, another one begins.

    Args:
        sizes: Samples of each data set, at least 1.
        weights: Weight of each, over 0.
        strategy: Which data set ends an epoch; see `count_draws`.
        seed: Seed of all epochs.
        epoch: Number of the epoch, from 0.
    """
    random = np.random.default_rng([seed, epoch])
    counts = count_draws(sizes, weights, strategy)
    source = random.permutation(np.repeat(np.arange(len(sizes)), counts))
    drawn = np.empty(len(source), dtype=np.int64)
    start = 0
    for number, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True)):
        walks = [random.permutation(size) for _ in range(-(-count // size))]
        drawn[source == number] = start + np.concatenate(walks)[:count]
        start += size
    return drawn


def name_sources(paths: Sequence[str]) -> tuple[str, ...]:
    """What data sets are called in logs: the last part of their path, and their place where it is not enough."""
    names = [path.rstrip("/").rpartition("/")[2] or path for path in paths]
    return tuple(name if names.count(name) == 1 else f"{name}:{place}" for place, name in enumerate(names))
