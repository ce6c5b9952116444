from __future__ import annotations

import numpy as np
import pytest

from siredon.config.sections.packing import PackingSection
from siredon.data.collate import Collator, PackDataset, build_collator
from siredon.data.table import build_table
from siredon.data.types import IGNORE, Sample


def sample(*ids: int) -> Sample:
    labels = np.array([IGNORE, *ids[1:]], dtype=np.int32)
    return Sample(np.array(ids, dtype=np.int32), labels)


def test_positions_restart_with_each_document_and_with_the_padding():
    batch = Collator(pad_id=0, pad_to=10)([(sample(5, 6, 7), sample(8, 9)), (sample(1, 2, 3, 4),)])
    assert batch["position_ids"].tolist() == [
        [0, 1, 2, 0, 1, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    ]
    assert batch["input_ids"].tolist()[0] == [5, 6, 7, 8, 9, 0, 0, 0, 0, 0]
    assert batch["num_tokens"].tolist() == [5, 4]


def test_the_first_token_of_each_document_and_the_padding_are_no_targets():
    batch = Collator(pad_id=6, pad_to=8)([(sample(5, 6, 7), sample(8, 6))])
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 6, -100, -100, -100]]


def test_padding_goes_to_the_longest_rounded_up_to_eight():
    batch = Collator(pad_id=0)([(sample(*range(9)),), (sample(1, 2),)])
    assert batch["input_ids"].shape == (2, 16)


def test_a_dataset_gives_the_samples_of_a_pack():
    table = build_table([sample(1, 2), sample(3, 4, 5), sample(6, 7)])
    dataset = PackDataset(table, [[0, 2], [1]])
    assert [s.input_ids.tolist() for s in dataset[0]] == [[1, 2], [6, 7]]
    assert len(dataset) == 2


def test_flattened_packs_lie_end_to_end_in_one_row_without_padding():
    batch = Collator(pad_id=0, multiple=1, flatten=True)([(sample(5, 6, 7),), (sample(8, 9), sample(1, 2))])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100, 2]]
    assert batch["num_tokens"].tolist() == [3, 4]


def test_a_flattened_batch_equals_a_pack_of_its_rows():
    rows = (sample(5, 6, 7), sample(8, 9), sample(1, 2, 3, 4))
    flat = Collator(pad_id=0, flatten=True)([(row,) for row in rows])
    packed = Collator(pad_id=0)([rows])
    assert all(
        flat[name].tolist() == packed[name].tolist() for name in ("input_ids", "labels", "position_ids")
    )


def test_flattened_packs_of_a_fixed_length_have_one_together():
    batch = Collator(pad_id=0, pad_to=10, flatten=True)([(sample(5, 6, 7), sample(8, 9)), (sample(1, 2),)])
    assert batch["input_ids"].shape == (1, 20)
    assert batch["position_ids"][0, :10].tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1, 2]


def test_a_batch_of_empty_packs_has_a_token_to_run_on_and_nothing_to_learn():
    for flatten in (False, True):
        batch = Collator(pad_id=0, multiple=1, flatten=flatten)([(), ()])
        assert batch["input_ids"].shape == ((1, 1) if flatten else (2, 1))
        assert batch["labels"].max() == IGNORE
        assert batch["num_tokens"].tolist() == [0, 0]


def test_the_config_says_how_far_batches_are_padded():
    def shape(flatten: bool = False, **keys: object) -> tuple[int, ...]:
        collator = build_collator(0, 32, PackingSection(**keys), flatten=flatten)
        return tuple(collator([(sample(*range(9)),), (sample(1, 2),)])["input_ids"].shape)

    assert shape() == (2, 16)
    assert shape(pad_to_multiple_of=10) == (2, 10)
    assert shape(pad_to_multiple_of=64) == (2, 64)
    assert shape(pad_to_sequence_len=True) == (2, 32)
    assert shape(sample_packing=True) == (2, 32)
    assert shape(flatten=True) == (1, 11)
    assert shape(flatten=True, pad_to_multiple_of=8) == (1, 16)
    assert shape(flatten=True, sample_packing=True) == (1, 64)


def test_a_dataset_knows_the_tokens_of_its_packs():
    table = build_table([sample(1, 2), sample(3, 4, 5), sample(6, 7)])
    assert PackDataset(table, [[0, 2], [], [1]]).lengths.tolist() == [4, 0, 3]


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("pad_to", [None, 10])
def test_no_row_is_shorter_than_attention_can_take(flatten: bool, pad_to: int | None):
    packs = [(sample(5, 6, 7),), (sample(1, 2),)]
    batch = Collator(pad_id=0, pad_to=pad_to, flatten=flatten, shortest=128)(packs)
    assert batch["input_ids"].shape == ((1 if flatten else 2), 128)
    assert batch["num_tokens"].tolist() == [3, 2]
    assert batch["labels"][batch["labels"] != IGNORE].tolist() == [6, 7, 2]
