"""Rows in an order in which those of like length share a batch."""

from __future__ import annotations

import numpy as np

from siredon.data.pack import Indices

#: Batches that are sorted together: more make batches more alike within, fewer keep the order more random.
_BATCHES_SORTED = 50


def group_by_length(lengths: Indices, size: int, seed: int, epoch: int) -> Indices:
    """Shuffles rows, sorts some batches of them at a time by length, and shuffles these batches.

    Args:
        lengths: Tokens per row, shape [N].
        size: Rows per batch, over all ranks.
        seed: Seed of the order.
        epoch: Each has an order of its own.

    Returns:
        Every row once, shape [N].  The batch of the longest row comes first, so that a run that needs too much
        memory fails at once; a batch that is not full comes last.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window = np.arange(len(order)) // (size * _BATCHES_SORTED)
    order = order[np.lexsort((-lengths[order], window))]
    num_batches = len(order) // size
    batches = random.permutation(order[: num_batches * size].reshape(num_batches, size))
    if num_batches:
        longest = int(lengths[batches].max(axis=1).argmax())
        batches[[0, longest]] = batches[[longest, 0]]
    return np.concatenate([batches.reshape(-1), order[num_batches * size :]])
