"""Documents end to end."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from siredon.data.join import EMPTY, close_window, cut_windows, join_samples
from siredon.data.types import IGNORE, Sample

LENGTHS = st.lists(st.lists(st.integers(2, 30), max_size=6), max_size=5)


def learned(start: int, length: int) -> Sample:
    """A text as it is tokenized: all of it is learned but the first token."""
    ids = np.arange(start, start + length, dtype=np.int32)
    return Sample(ids, np.where(np.arange(length) == 0, IGNORE, ids).astype(np.int32))


@given(LENGTHS, st.integers(2, 16))
@settings(max_examples=60, deadline=None)
def test_no_token_is_lost_or_doubled_over_the_borders_of_buffers(buffers: list[list[int]], length: int):
    carry, start, windows = EMPTY, 0, []
    for lengths in buffers:
        samples = []
        for size in lengths:
            samples.append(learned(start, size))
            start += size
        found, carry = cut_windows(carry, samples, length)
        windows += found
        assert len(carry.input_ids) < length
    assert all(len(window.input_ids) == length for window in windows)
    ids = [token for window in [*windows, carry] for token in window.input_ids.tolist()]
    assert ids == list(range(start))
    for window in windows:
        assert window.labels.tolist() == [IGNORE, *window.input_ids[1:].tolist()]
    assert [len(window.input_ids) for window in close_window(carry)] == (
        [len(carry.input_ids)] if len(carry.input_ids) > 1 else []
    )


def test_what_is_not_learned_stays_so():
    chat = Sample(np.array([5, 6, 7], np.int32), np.array([IGNORE, IGNORE, 7], np.int32))
    joined = join_samples([chat, learned(10, 2), chat])
    assert joined.input_ids.tolist() == [5, 6, 7, 10, 11, 5, 6, 7]
    assert joined.labels.tolist() == [IGNORE, IGNORE, 7, 10, 11, IGNORE, IGNORE, 7]
