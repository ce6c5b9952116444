"""Answers in steps: where labels stand, and what of a row cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.formats.stepwise_supervised import read_steps
from siredon.data.steps import tokenize_steps
from siredon.data.types import IGNORE, LeftOut, ReadOptions, RowError, Steps

ROW = {"prompt": "One and one?", "completions": ["It is two.", "So three."], "labels": [True, 0]}


def options(**keys: Any) -> ReadOptions:
    entry = DatasetEntry(path="rows.jsonl", type="stepwise_supervised", **keys)
    return ReadOptions(entry, train_on_inputs=False)


def labelled(item: Steps, tokenizer: Any) -> list[tuple[str, int]]:
    """The text up to each label, and the label."""
    sample = tokenize_steps(item, tokenizer)
    return [
        (tokenizer.decode(sample.input_ids[: place + 1]), int(label))
        for place, label in enumerate(sample.labels)
        if label != IGNORE
    ]


def test_each_step_has_its_label_at_the_end_of_its_separator(tokenizer: Any):
    first, second = labelled(read_steps(ROW, options()), tokenizer)
    assert first == ("One and one?It is two.\n", 1)
    assert second == ("One and one?It is two.\nSo three.\n", 0)


def test_a_separator_of_several_tokens_is_judged_at_its_last(tokenizer: Any):
    first, second = labelled(read_steps(ROW, options(step_separator="\n\n")), tokenizer)
    assert first == ("One and one?It is two.\n\n", 1)
    assert second[0].endswith("So three.\n\n")


def test_the_last_step_alone(tokenizer: Any):
    (only,) = labelled(read_steps(ROW, options(train_on_last_step_only=True)), tokenizer)
    assert only == ("One and one?It is two.\nSo three.\n", 0)


def test_what_is_over_the_longest_answer_is_cut_off(tokenizer: Any):
    first = len(tokenizer("It is two.\n", add_special_tokens=False)["input_ids"])
    item = read_steps(ROW, options(max_completion_length=first))
    assert labelled(item, tokenizer) == [("One and one?It is two.\n", 1)]
    assert labelled(read_steps(ROW, options(max_completion_length=first - 1)), tokenizer) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 3}, "`prompt` holds no text"),
        ({"completions": "one"}, "no list of texts"),
        ({"labels": [True, "no"]}, "no list of true and false"),
        ({"labels": [True]}, "2 `completions` and 1 `labels`"),
    ],
)
def test_a_row_that_is_none_is_told(change: dict[str, Any], message: str):
    with pytest.raises(RowError, match=message):
        read_steps({**ROW, **change}, options())


def test_an_answer_without_steps_is_left_out():
    with pytest.raises(LeftOut):
        read_steps({**ROW, "completions": [], "labels": []}, options())


def test_a_prompt_without_a_token_is_told(tokenizer: Any):
    with pytest.raises(RowError, match="no token in its prompt"):
        tokenize_steps(read_steps({**ROW, "prompt": ""}, options()), tokenizer)
