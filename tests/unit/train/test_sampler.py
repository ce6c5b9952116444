"""In which order rows are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader, skip_first_batches
from tests.conftest import build_model
from tests.unit.train.steps import CPU, random_samples

from siredon.config.load import load_config
from siredon.data.collate import Collator, PackDataset
from siredon.data.pack import keep_single
from siredon.data.table import build_table
from siredon.data.types import Batch, Pack
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.sampler import LengthSampler, ShuffledSampler
from siredon.train.trainer import SiredonTrainer

LENGTHS = np.random.default_rng(0).integers(3, 60, 22).tolist()
DATASET = PackDataset(build_table(random_samples([(length, 2) for length in LENGTHS])), keep_single(22))
#: Rows by what is in them.
NUMBERS = {DATASET[index][0].input_ids.tobytes(): index for index in range(22)}


class RecordingCollator:
    """Notes which rows each batch is made of."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, packs: Sequence[Pack]) -> Batch:
        self.batches.append([NUMBERS[pack[0].input_ids.tobytes()] for pack in packs])
        return Collator(0)(packs)


def train_and_record(write_config: Any, **keys: Any) -> list[list[int]]:
    """The rows of each micro-batch of two epochs, and of the validation after them."""
    config, _ = load_config(
        str(write_config(max_steps=..., num_epochs=2, micro_batch_size=4, save_strategy="no", **keys))
    )
    collator = RecordingCollator()
    trainer = SiredonTrainer(
        selects_logits=True,
        model=build_model(),
        args=build_arguments(config, count_steps(config, 22), Precision(torch.float32, None, False), CPU),
        train_dataset=DATASET,
        eval_dataset=DATASET,
        data_collator=collator,
    )
    trainer.train()
    trainer.evaluate()
    assert collator.batches[12:] == [list(range(22))[start : start + 4] for start in range(0, 22, 4)]
    return collator.batches[:12]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_rows_are_shuffled_anew_each_epoch(write_config: Any):
    batches = train_and_record(write_config)
    first, second = flat(batches[:6]), flat(batches[6:])
    assert sorted(first) == sorted(second) == list(range(22))
    assert first != second
    assert list(range(22)) not in (first, second)


def test_curriculum_sampling_keeps_the_order_of_the_rows_in_every_epoch(write_config: Any):
    batches = train_and_record(write_config, curriculum_sampling=True)
    assert flat(batches[:6]) == flat(batches[6:]) == list(range(22))


def test_group_by_length_puts_rows_of_like_length_into_a_batch(write_config: Any):
    batches = train_and_record(write_config, group_by_length=True)
    assert sorted(flat(batches[:6])) == sorted(flat(batches[6:])) == list(range(22))
    # 22 rows are sorted as one: five batches of neighbours in length, in any order, and the shortest two.
    by_length = sorted(range(22), key=lambda row: -LENGTHS[row])
    wanted = {
        tuple(sorted(LENGTHS[row] for row in by_length[start : start + 4])) for start in range(0, 22, 4)
    }
    for epoch in (batches[:6], batches[6:]):
        assert {tuple(sorted(LENGTHS[row] for row in batch)) for batch in epoch} == wanted
        assert max(LENGTHS) in [LENGTHS[row] for row in epoch[0]]
    assert batches[:6] != batches[6:]
    assert batches == train_and_record(write_config, group_by_length=True)


def test_packs_are_not_grouped_by_length(write_config: Any):
    keys = {"sample_packing": True, "group_by_length": True}
    assert train_and_record(write_config, **keys) == train_and_record(write_config, sample_packing=True)


def test_the_order_is_that_of_accelerate_and_empty_packs_of_ranks_come_last():
    packs = keep_single(21)
    theirs = SeedableRandomSampler(list(range(21)), data_seed=42, generator=torch.Generator())
    orders = []
    for epoch in (0, 1):
        theirs.set_epoch(epoch)
        orders.append(list(theirs))
        for padded in (packs, packs.pad_to_multiple(2), packs.pad_to_multiple(8)):
            empty = list(range(21, len(padded)))
            assert list(ShuffledSampler(padded, 42, lambda: epoch)) == orders[-1] + empty  # noqa: B023
    assert orders[0] != orders[1]
    assert packs.pad_to_multiple(8).num_filled == packs.num_filled == 21


def batches_of(rank: int, epoch: int, skipped: int = 0) -> list[list[int]]:
    """The batches of one of two ranks, of a loader that skips some, as a resumed run does."""
    sampler = LengthSampler(DATASET, 2 * 2, 42, lambda: epoch)
    loader = prepare_data_loader(
        torch.utils.data.DataLoader(list(range(22)), batch_size=2, sampler=sampler),
        num_processes=2,
        process_index=rank,
        put_on_device=False,
        rng_types=[],
        use_seedable_sampler=True,
        data_seed=42,
    )
    return [batch.tolist() for batch in (skip_first_batches(loader, skipped) if skipped else loader)]


def test_ranks_share_the_batches_of_like_length_and_a_resumed_one_goes_on_in_its_epoch():
    first, second = batches_of(0, 1), batches_of(1, 1)
    spread = [np.ptp([LENGTHS[row] for row in a + b]) for a, b in zip(first[:5], second[:5], strict=True)]
    assert max(spread) < np.ptp(LENGTHS) / 3
    assert sorted({*flat(first), *flat(second)}) == list(range(22))
    assert batches_of(1, 1, skipped=3) == second[3:] != batches_of(1, 0)[3:]
