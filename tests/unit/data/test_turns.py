"""Which source gives the next row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siredon.data.turns import Share, draw_sources

WEIGHTS = st.lists(st.floats(0.1, 20), min_size=1, max_size=5)


@given(WEIGHTS)
@settings(max_examples=20, deadline=None)
def test_weights_hold_over_ten_thousand_draws(weights: list[float]):
    drawn = draw_sources([Share(weight) for weight in weights], [0] * len(weights), 10_000)
    counts = np.bincount(drawn, minlength=len(weights))
    wanted = 10_000 * np.asarray(weights) / sum(weights)
    assert np.abs(counts - wanted).max() <= len(weights)


@given(WEIGHTS, st.lists(st.integers(0, 40), max_size=6))
@settings(max_examples=50, deadline=None)
def test_drawing_in_parts_is_drawing_at_once(weights: list[float], parts: list[int]):
    shares = [Share(weight, 50 if index % 2 else None) for index, weight in enumerate(weights)]
    given_rows, drawn = np.zeros(len(shares), np.int64), []
    for count in parts:
        some = draw_sources(shares, given_rows.tolist(), count)
        given_rows += np.bincount(some, minlength=len(shares))
        drawn += some.tolist()
    assert drawn == draw_sources(shares, [0] * len(shares), sum(parts)).tolist()


def test_a_source_that_ends_leaves_the_others_in_their_proportions():
    shares = [Share(2), Share(1), Share(9, 30)]
    drawn = draw_sources(shares, [0, 0, 0], 630)
    assert np.bincount(drawn).tolist() == pytest.approx([400, 200, 30], abs=1)
    assert 2 not in drawn[50:]


def test_a_stream_ends_with_its_last_source():
    shares = [Share(1, 5), Share(1, 3)]
    assert len(draw_sources(shares, [0, 0], 100)) == 8
    assert len(draw_sources(shares, [5, 3], 100)) == 0
