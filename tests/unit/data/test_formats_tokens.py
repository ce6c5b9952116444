from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.samples import samples_of
from tests.unit.data.test_prepare import prepare, write_rows

from siredon.data.formats.auto import detect_format
from siredon.errors import DataError


def test_rows_that_are_tokens_pass_through_without_their_padding(tokenizer: Any, tmp_path: Path):
    rows = [
        {"input_ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100], "attention_mask": [1, 1, 1, 0]},
        {"input_ids": [8, 9], "labels": None, "attention_mask": None},
    ]
    entry = {**write_rows(tmp_path / "r.jsonl", rows), "type": "tokenized"}
    train = prepare(tokenizer, tmp_path, datasets=[entry], shuffle_merged_datasets=False).train
    found = [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples_of(train)]
    assert found == [([5, 6, 7], [-100, 6, 7]), ([8, 9], [-100, 9])]
    assert detect_format(rows)[0] == "tokenized"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": [1, 10**6]}, "has the id 1,000,000"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 `input_ids` and 1 `labels`"),
        ({"input_ids": [1, 2], "labels": [1, 3]}, "neither the token at their place"),
        ({"input_ids": ["a"]}, "no list of whole numbers"),
        ({"input_ids": [[1], [2, 3]]}, "no list of whole numbers"),
        ({"input_ids": [-1, 2]}, "no ids"),
        ({"labels": [1]}, "no column `input_ids`"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tokenizer: Any, tmp_path: Path, row: Any, reason: str):
    entry = {**write_rows(tmp_path / "r.jsonl", [row]), "type": "tokenized"}
    with pytest.raises(DataError, match=reason):
        prepare(tokenizer, tmp_path, datasets=[entry])


def test_made_up_rows_are_as_many_and_as_long_as_asked_for_and_the_same_again(tokenizer: Any, tmp_path: Path):
    entry = {
        "path": "synthetic",
        "type": "_synthetic",
        "length": 7,
        "sequence_length": 50,
        "max_input_id": 200,
    }
    first, second = (
        prepare(tokenizer, tmp_path / name, datasets=[entry], shuffle_merged_datasets=False).train
        for name in ("a", "b")
    )
    ids = np.stack([sample.input_ids for sample in samples_of(first)])
    assert ids.shape == (7, 50)
    assert (ids.min() >= 100, ids.max() < 200) == (True, True)
    assert len({tuple(row) for row in ids.tolist()}) == 7
    assert (ids == np.stack([sample.input_ids for sample in samples_of(second)])).all()
    assert all((s.labels[1:] == s.input_ids[1:]).all() for s in samples_of(first))
