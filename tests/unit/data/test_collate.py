from __future__ import annotations

import numpy as np

from siredon.data.collate import Collator, PackDataset
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
