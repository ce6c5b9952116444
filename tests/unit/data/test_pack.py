from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siredon.data.pack import fill, pack_best_fit


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(50, 90))
def test_every_sample_is_in_exactly_one_pack_and_no_pack_overflows(lengths: list[int], capacity: int):
    packs = pack_best_fit(lengths, capacity)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in pack) <= capacity for pack in packs)


def test_best_fit_decreasing_needs_three_packs_where_first_fit_in_order_needs_four():
    assert len(pack_best_fit([3, 3, 3, 7, 7, 7], 10)) == 3


def test_a_hundred_thousand_lengths_fill_nearly_everything():
    lengths = np.random.default_rng(0).integers(20, 2001, 100_000)
    assert fill(pack_best_fit(lengths, 4096), lengths, 4096) >= 0.9995


def test_a_sample_over_the_capacity_is_refused():
    with pytest.raises(ValueError, match="from 1 to 8"):
        pack_best_fit([3, 9], 8)


def test_no_samples_give_no_packs():
    assert pack_best_fit([], 8) == []
    assert fill([], [], 8) == 0.0
