"""Data sets mixed by weight: shares, what ends an epoch, and that an epoch is a matter of its number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.test_prepare import alpaca, write_rows

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.collate import MixedDataset
from siredon.data.epochs import Horizon
from siredon.data.mix import count_draws, draw_epoch, name_sources
from siredon.data.pack import gather_packs
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.errors import DataError

PACKED = {"sample_packing": True}
THREE = Horizon(3)


def sources_of(drawn: Any, sizes: list[int]) -> Any:
    return np.searchsorted(np.cumsum(sizes), drawn, side="right")


# The draw


def test_shares_follow_the_weights_over_100k_draws():
    sizes, weights = [60_000, 50_000, 90_000], [3.0, 1.5, 0.5]
    drawn = draw_epoch(sizes, weights, "first_exhausted", 0, 0)
    source = sources_of(drawn, sizes)
    assert len(drawn) == 100_000
    assert np.bincount(source) / len(drawn) == pytest.approx([0.6, 0.3, 0.1], abs=1e-5)
    # Not only over the whole: any tenth of the epoch has them too, so the mixture does not drift.
    for tenth in np.split(source, 10):
        assert np.bincount(tenth, minlength=3) / len(tenth) == pytest.approx([0.6, 0.3, 0.1], abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "weights", "strategy", "counts"),
    [
        ([4, 2], [1, 1], "first_exhausted", [2, 2]),
        ([4, 2], [1, 1], "all_exhausted", [4, 4]),
        ([4, 2], [2, 1], "first_exhausted", [4, 2]),
        ([4, 2], [2, 1], "all_exhausted", [4, 2]),
        ([6, 2], [1, 2], "first_exhausted", [1, 2]),
        ([6, 2], [1, 2], "all_exhausted", [6, 12]),
        ([10, 10, 3], [5, 3, 2], "first_exhausted", [8, 4, 3]),
        ([10, 10, 3], [5, 3, 2], "all_exhausted", [17, 10, 7]),
        ([10, 3], [1, 1000], "first_exhausted", [1, 3]),
        ([7], [0.1], "first_exhausted", [7]),
        ([7], [0.1], "all_exhausted", [7]),
    ],
)
def test_an_epoch_ends_with_the_first_or_the_last_data_set(
    sizes: list[int], weights: list[float], strategy: Any, counts: list[int]
):
    assert count_draws(sizes, weights, strategy).tolist() == counts
    drawn = draw_epoch(sizes, weights, strategy, 3, 5)
    times = np.bincount(drawn, minlength=sum(sizes))
    start = 0
    for size, count in zip(sizes, counts, strict=True):
        own = times[start : start + size]
        assert own.sum() == count
        # Without replacement: no sample comes again before every other one has come as often.
        assert own.max() - own.min() <= 1
        start += size


def test_a_data_set_that_starts_over_is_shuffled_anew():
    drawn = draw_epoch([40, 400], [1, 1], "all_exhausted", 0, 0)
    walks = np.split(drawn[drawn < 40], 10)
    assert all(sorted(walk) == list(range(40)) for walk in walks)
    assert len({tuple(walk) for walk in walks}) == 10


def test_an_epoch_depends_on_the_seed_and_its_number_alone():
    draws = {
        (seed, epoch): draw_epoch([50, 80], [1, 2], "first_exhausted", seed, epoch).tolist()
        for seed in (1, 2)
        for epoch in (0, 1, 2)
    }
    assert len({tuple(drawn) for drawn in draws.values()}) == 6
    for (seed, epoch), drawn in draws.items():
        assert draw_epoch([50, 80], [1, 2], "first_exhausted", seed, epoch).tolist() == drawn
    # The larger share of a data set is other samples each time, not the same ones in another order.
    assert len({frozenset(sample for sample in drawn if sample < 50) for drawn in draws.values()}) == 6


def test_data_sets_are_named_by_their_last_part_and_by_place_where_that_is_not_enough():
    paths = ["./a/rows.jsonl", "org/chats", "b/rows.jsonl", "folder/"]
    assert name_sources(paths) == ("rows.jsonl:0", "chats", "rows.jsonl:2", "folder")


# Packs


def test_packs_are_cut_before_empty_ones_are_added():
    packs = gather_packs([[5, 3, 4], [1], [0, 2]])
    assert packs.split_to(3).offsets.tolist() == packs.offsets.tolist()
    assert [pack.tolist() for pack in packs.split_to(4)] == [[5], [3, 4], [1], [0, 2]]
    assert [pack.tolist() for pack in packs.split_to(6)] == [[5], [3], [4], [1], [0], [2]]
    assert [pack.tolist() for pack in packs.split_to(8)] == [[5], [3], [4], [1], [0], [2], [], []]


# The whole stage


def prepare_mixed(
    tokenizer: Any,
    tmp_path: Path,
    *,
    packing: dict[str, Any] | None = None,
    horizon: Horizon = THREE,
    multiple: int = 1,
    **keys: Any,
) -> Prepared:
    values = {
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "sequence_len": 256,
        "mix_strategy": "first_exhausted",
        **keys,
    }
    data = DataSection.model_validate(values)
    preparation = Preparation(tokenizer, TokenizerSection(), data, 7, horizon)
    return prepare_data(preparation, PackingSection.model_validate(packing or {}), multiple=multiple)


def two(tmp_path: Path, first: int = 60, second: int = 30, **weights: float) -> list[dict[str, Any]]:
    """Two data sets whose rows tell themselves apart, of unequal length."""
    entries = []
    for name, size in (("a", first), ("b", second)):
        entry = alpaca(tmp_path, [f"{name}{i} " + "x " * (i % 7) for i in range(size)], f"{name}.jsonl")
        entries.append({**entry, **({"weight": weights[name]} if name in weights else {})})
    return entries


def epoch_of(dataset: MixedDataset, epoch: int) -> list[tuple[int, bytes]]:
    """Source and content of every sample of an epoch."""
    start = epoch * len(dataset)
    packs = [dataset[index] for index in range(start, start + len(dataset))]
    return [(sample.source, sample.input_ids.tobytes()) for pack in packs for sample in pack]


@pytest.mark.parametrize("packing", [{}, PACKED], ids=["rows", "packed"])
def test_every_epoch_is_another_draw_of_the_same_size(
    tokenizer: Any, tmp_path: Path, packing: dict[str, Any]
):
    prepared = prepare_mixed(tokenizer, tmp_path, packing=packing, datasets=two(tmp_path, a=1, b=2))
    train = prepared.train
    assert isinstance(train, MixedDataset)
    epochs = [epoch_of(train, epoch) for epoch in range(3)]
    for found in epochs:
        assert len(found) == len(set(found)) == 45
        assert sum(source for source, _ in found) == 30
    assert len({frozenset(found) for found in epochs}) == 3
    # In any order, and in another process: the epoch is the same.
    again = prepare_mixed(tokenizer, tmp_path, packing=packing, datasets=two(tmp_path, a=1, b=2)).train
    assert [epoch_of(again, epoch) for epoch in (2, 0, 1)] == [epochs[epoch] for epoch in (2, 0, 1)]
    assert any("33.3 % a.jsonl: 15 samples, drawn from 60" in line for line in prepared.lines)


def test_packed_epochs_have_equally_many_packs_none_of_them_empty(tokenizer: Any, tmp_path: Path):
    keys: dict[str, Any] = {"packing": PACKED, "datasets": two(tmp_path), "horizon": Horizon(20)}
    train = prepare_mixed(tokenizer, tmp_path, **keys).train
    assert isinstance(train, MixedDataset)
    sizes = {len(train._draw(epoch)) for epoch in range(20)}
    assert sizes == {len(train)}
    assert all(len(pack) for epoch in range(20) for pack in train.packs_of(epoch))
    lengths = train.table.lengths
    assert all(train.packs_of(epoch).count_tokens(lengths).max() <= 256 for epoch in range(20))
    # The largest epoch was not cut; it is as full as the packer makes it.
    alone = [len(prepare_mixed(tokenizer, tmp_path, **{**keys, "horizon": Horizon(1)}).train)]
    assert alone[0] <= len(train)
    assert len(prepare_mixed(tokenizer, tmp_path, **keys, multiple=4).train) == -(-len(train) // 4) * 4


def test_steps_are_covered_by_the_epochs_that_are_tried():
    assert [Horizon(2.5).is_reached(number, 10) for number in (2, 3)] == [False, True]
    steps = Horizon(1, max_steps=7, packs_per_step=4)
    # 10 packs are 3 steps.
    assert [steps.is_reached(number, 10) for number in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("order", [{}, {"shuffle_merged_datasets": False}], ids=["shuffled", "in order"])
def test_every_data_set_is_held_out_alike_and_no_held_out_sample_is_drawn(
    tokenizer: Any, tmp_path: Path, order: dict[str, Any]
):
    prepared = prepare_mixed(
        tokenizer, tmp_path, datasets=two(tmp_path), val_set_size=0.2, mix_strategy="all_exhausted", **order
    )
    assert prepared.validation is not None
    held_out = {
        (sample.source, sample.input_ids.tobytes())
        for pack in (prepared.validation[index] for index in range(len(prepared.validation)))
        for sample in pack
    }
    assert [sum(source == number for source, _ in held_out) for number in (0, 1)] == [12, 6]
    assert isinstance(prepared.train, MixedDataset)
    drawn = {found for epoch in range(5) for found in epoch_of(prepared.train, epoch)}
    assert len(drawn) == 72
    assert not drawn & held_out


def test_an_equal_row_of_another_data_set_is_not_drawn_either(tokenizer: Any, tmp_path: Path):
    rows = [{"instruction": "Say", "input": "", "output": f"word {i}"} for i in range(20)]
    entries = [{**write_rows(tmp_path / f"{name}.jsonl", rows), "type": "alpaca"} for name in "ab"]
    prepared = prepare_mixed(tokenizer, tmp_path, datasets=entries, val_set_size=6)
    assert prepared.validation is not None
    held_out = {
        prepared.validation[index][0].input_ids.tobytes() for index in range(len(prepared.validation))
    }
    assert isinstance(prepared.train, MixedDataset)
    drawn = {content for epoch in range(5) for _, content in epoch_of(prepared.train, epoch)}
    assert drawn
    assert not drawn & held_out


def test_a_data_set_of_which_nothing_is_left_is_named(tokenizer: Any, tmp_path: Path):
    rows = [{"instruction": "Say", "input": "", "output": f"word {i}"} for i in range(3)]
    entries = [{**write_rows(tmp_path / f"{name}.jsonl", rows), "type": "alpaca"} for name in "ab"]
    with pytest.raises(DataError, match=r"b\.jsonl: no sample is left to mix"):
        prepare_mixed(
            tokenizer,
            tmp_path,
            datasets=entries,
            dataset_exact_deduplication=True,
            shuffle_merged_datasets=False,
        )


def test_weights_and_strategy_change_the_fingerprint_but_not_the_prepared_rows(
    tokenizer: Any, tmp_path: Path
):
    found = [
        prepare_mixed(tokenizer, tmp_path, datasets=two(tmp_path)),
        prepare_mixed(tokenizer, tmp_path, datasets=two(tmp_path, a=2)),
        prepare_mixed(tokenizer, tmp_path, datasets=two(tmp_path), mix_strategy="all_exhausted"),
        prepare_mixed(tokenizer, tmp_path, datasets=two(tmp_path), mix_strategy="concatenate"),
    ]
    assert len({prepared.fingerprint for prepared in found}) == 4
    assert all("(prepared before)" in prepared.lines[0] for prepared in found[1:])


def test_a_batch_says_of_which_data_set_each_token_is(tokenizer: Any, tmp_path: Path):
    from dataclasses import replace

    prepared = prepare_mixed(tokenizer, tmp_path, packing=PACKED, datasets=two(tmp_path))
    packs = [prepared.train[index] for index in range(2)]
    assert "sources" not in prepared.collator(packs)
    for flatten in (False, True):
        collator = replace(prepared.collator, marks_sources=True, flatten=flatten)
        batch = collator(packs)
        for pack, row in zip(packs, batch["sources"].reshape(2, -1), strict=True):
            wanted = np.concatenate([np.full(len(sample.input_ids), sample.source) for sample in pack])
            if not flatten:
                assert row[: len(wanted)].tolist() == wanted.tolist()
        wanted = [sample.source for pack in packs for sample in pack for _ in sample.input_ids]
        if flatten:
            assert batch["sources"][0, : len(wanted)].tolist() == wanted
