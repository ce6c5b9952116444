from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from siredon.data.group import group_by_length


def count_padding(lengths: np.ndarray, order: np.ndarray, size: int) -> int:
    batches = [lengths[order[start : start + size]] for start in range(0, len(order), size)]
    return sum(int((batch.max() - batch).sum()) for batch in batches)


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 9), st.integers(0, 3))
def test_every_row_comes_once(lengths: list[int], size: int, epoch: int):
    order = group_by_length(np.asarray(lengths, dtype=np.int64), size, 42, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))


def test_batches_need_little_padding_and_come_in_no_order_of_length():
    lengths = np.random.default_rng(0).integers(20, 2001, 5_000)
    order = group_by_length(lengths, 8, 42, 0)
    assert count_padding(lengths, order, 8) < 0.05 * count_padding(lengths, np.arange(5_000), 8)
    means = lengths[order].reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.1


def test_the_longest_row_comes_in_the_first_batch_and_a_batch_that_is_not_full_last():
    lengths = np.random.default_rng(1).integers(20, 2000, 1_003)
    lengths[500] = 2_000
    order = group_by_length(lengths, 8, 42, 0)
    assert 500 in order[:8]
    full = lengths[order[:1_000]].reshape(-1, 8)
    assert (full.max(axis=1) - full.min(axis=1)).max() < 400
    assert lengths[order[-3:]].max() < 200


def test_the_order_follows_the_seed_and_changes_with_the_epoch():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    order = group_by_length(lengths, 4, 42, 0)
    assert np.array_equal(order, group_by_length(lengths.copy(), 4, 42, 0))
    assert not np.array_equal(order, group_by_length(lengths, 4, 42, 1))
    assert not np.array_equal(order, group_by_length(lengths, 4, 43, 0))
