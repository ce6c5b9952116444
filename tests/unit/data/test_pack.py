from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siredon.config.sections.packing import PackingSection
from siredon.data.pack import Packs, build_packs, gather_packs, keep_single

LENGTHS = st.lists(st.integers(1, 50), max_size=200).map(lambda lengths: np.asarray(lengths, dtype=np.int64))
FEW_LENGTHS = st.lists(st.sampled_from([1, 2, 17, 25, 49]), max_size=200).map(
    lambda lengths: np.asarray(lengths, dtype=np.int64)
)
CAPACITY = st.integers(50, 90)


def pack(lengths: Any, capacity: int, **keys: Any) -> Packs:
    return build_packs(np.asarray(lengths, dtype=np.int64), capacity, PackingSection(**keys))


def as_lists(packs: Packs) -> list[list[int]]:
    return [rows.tolist() for rows in packs]


def place_one_by_one(lengths: Any, capacity: int) -> list[int]:
    """The slow truth: longest row first, each into the fullest pack with room; what each pack then holds."""
    held: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [index for index, tokens in enumerate(held) if tokens + length <= capacity]
        if fitting:
            held[max(fitting, key=lambda index: held[index])] += length
        else:
            held.append(length)
    return sorted(held)


def fill_one_by_one(lengths: Any, capacity: int, most_rows: int) -> list[list[int]]:
    """The slow truth of packing in order."""
    packs: list[list[int]] = []
    left = 0
    for row, length in enumerate(lengths.tolist()):
        if not packs or length > left or len(packs[-1]) == most_rows:
            packs.append([])
            left = capacity
        packs[-1].append(row)
        left -= length
    return packs


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "sample_packing_group_size": st.integers(1, 60),
        "sample_packing_bin_size": st.integers(1, 6),
        "sample_packing_sequentially": st.booleans(),
        "curriculum_sampling": st.booleans(),
    },
)


@given(LENGTHS | FEW_LENGTHS, CAPACITY, OPTIONS)
def test_every_row_is_in_exactly_one_pack_and_no_pack_overflows(
    lengths: Any, capacity: int, options: dict[str, Any]
):
    packs = pack(lengths, capacity, **options)
    assert sorted(packs.indices.tolist()) == list(range(len(lengths)))
    assert all(0 < tokens <= capacity for tokens in packs.count_tokens(lengths))
    assert max((len(rows) for rows in packs), default=0) <= options.get(
        "sample_packing_bin_size", len(lengths)
    )
    assert all(np.array_equal(rows, np.sort(rows)) for rows in packs)
    assert [rows[0] for rows in packs] == sorted(rows[0] for rows in packs)
    assert as_lists(packs) == as_lists(pack(lengths.copy(), capacity, **options))


@given(LENGTHS | FEW_LENGTHS, CAPACITY)
def test_packs_hold_what_best_fit_decreasing_puts_into_them(lengths: Any, capacity: int):
    packs = pack(lengths, capacity)
    assert sorted(packs.count_tokens(lengths).tolist()) == place_one_by_one(lengths, capacity)


@given(LENGTHS | FEW_LENGTHS, CAPACITY, st.integers(1, 9))
def test_packing_in_order_is_next_fit(lengths: Any, capacity: int, most_rows: int):
    options = {"sample_packing_sequentially": True, "sample_packing_bin_size": most_rows}
    assert as_lists(pack(lengths, capacity, **options)) == fill_one_by_one(lengths, capacity, most_rows)


@given(LENGTHS, CAPACITY, st.integers(1, 60))
def test_rows_of_a_pack_are_of_one_group_which_is_packed_on_its_own(lengths: Any, capacity: int, size: int):
    packs = as_lists(pack(lengths, capacity, sample_packing_group_size=size))
    alone = [
        [start + row for row in rows]
        for start in range(0, len(lengths), size)
        for rows in as_lists(pack(lengths[start : start + size], capacity))
    ]
    assert packs == alone


def test_curriculum_sampling_packs_in_order_unless_told_otherwise():
    lengths = np.random.default_rng(0).integers(1, 50, 100)
    in_order = as_lists(pack(lengths, 60, sample_packing_sequentially=True))
    assert as_lists(pack(lengths, 60, curriculum_sampling=True)) == in_order
    best = as_lists(pack(lengths, 60, curriculum_sampling=True, sample_packing_sequentially=False))
    assert best == as_lists(pack(lengths, 60)) != in_order


def test_best_fit_decreasing_needs_three_packs_where_first_fit_in_order_needs_four():
    assert len(pack([3, 3, 3, 7, 7, 7], 10)) == 3


@pytest.mark.parametrize("capacity", [4096, 32768, 100_000])
def test_a_hundred_thousand_lengths_fill_nearly_everything_at_once(capacity: int):
    lengths = np.random.default_rng(0).integers(20, 2001, 100_000)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        packs = pack(lengths, capacity)
        seconds.append(time.process_time() - began)
    needed = -(-int(lengths.sum()) // capacity)
    assert packs.fill(lengths, capacity) >= 0.9995 or len(packs) == needed
    assert min(seconds) < 0.5


def test_most_rows_of_a_pack_have_no_limit_as_a_limit_leaves_packs_of_short_rows_empty():
    lengths = np.random.default_rng(0).integers(20, 201, 20_000)
    assert pack(lengths, 32768).fill(lengths, 32768) > 0.98
    assert pack(lengths, 32768, sample_packing_bin_size=200).fill(lengths, 32768) < 0.7


def test_empty_packs_make_a_multiple():
    packs = pack([5, 5, 5], 5)
    padded = packs.pad_to_multiple(4)
    assert [len(rows) for rows in padded] == [1, 1, 1, 0]
    assert padded.count_tokens(np.array([5, 5, 5])).tolist() == [5, 5, 5, 0]
    assert len(packs.pad_to_multiple(3)) == 3


def test_packs_are_read_like_a_list():
    packs = gather_packs([[3, 0], [], [1, 2]])
    assert as_lists(packs) == [[3, 0], [], [1, 2]]
    assert packs[-1].tolist() == [1, 2]
    assert as_lists(keep_single(2)) == [[0], [1]]
    with pytest.raises(IndexError):
        packs[3]


def test_a_million_rows_take_two_numbers_each():
    lengths = np.full(1_000_000, 100)
    packs = pack(lengths, 4096)
    assert packs.indices.nbytes + packs.offsets.nbytes < 2 * lengths.nbytes
    assert len(packs) == 25_000


@pytest.mark.parametrize("sequentially", [False, True])
def test_a_row_over_the_capacity_is_refused(sequentially: bool):
    with pytest.raises(ValueError, match="from 1 to 8"):
        pack([3, 9], 8, sample_packing_sequentially=sequentially)
    with pytest.raises(ValueError, match="from 1 to 8"):
        pack([3, 0], 8, sample_packing_sequentially=sequentially)


@pytest.mark.parametrize("sequentially", [False, True])
def test_no_rows_give_no_packs(sequentially: bool):
    packs = pack([], 8, sample_packing_sequentially=sequentially)
    assert as_lists(packs) == []
    assert packs.fill(np.zeros(0, dtype=np.int64), 8) == 0.0
    assert len(packs.pad_to_multiple(4)) == 0
