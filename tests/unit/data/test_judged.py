"""Rows with one answer, good or bad: read, rendered as supervised data is, and matched with answers of other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import SHARED_DATA

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import JUDGED_FORMATS
from siredon.data.choose import choose_format
from siredon.data.inspect import Choice, inspect_data
from siredon.data.judged_rows import EMPTY
from siredon.data.match import MatchedTable, match_sides
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.data.split import Split
from siredon.data.table import JoinedTable, build_table
from siredon.data.types import IGNORE, Judged, LeftOut, ReadOptions, RowError, Sample
from siredon.errors import DataError

ASK = {"role": "user", "content": "Is the sea salty?"}
ROW: dict[str, Any] = {"messages": [ASK], "completion": "Yes.", "label": True}


def read(row: dict[str, Any], **keys: Any) -> Judged:
    entry = DatasetEntry.model_validate({"path": "x", "type": "chat_template.default", **keys})
    found = choose_format(entry, JUDGED_FORMATS).read(row, ReadOptions(entry, False))
    assert isinstance(found, Judged)
    return found


def said(found: Any) -> list[tuple[str, str, bool]]:
    return [(message.role, message.content, message.learn) for message in found.answer.messages]


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": f"Number {n}?"}],
            "completion": f"Yes {n}.",
            "label": n % 3 > 0,
        }
        for n in range(count)
    ]


def preparation_of(rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, **keys: Any) -> Preparation:
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"path": str(path), "type": "chat_template.default", **keys.pop("entry", {})}
    data = {
        "datasets": [entry],
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "shuffle_merged_datasets": False,
    }
    section = DataSection.model_validate({**data, **keys})
    return Preparation(tokenizer, TokenizerSection(), section, 7, formats=JUDGED_FORMATS)


def prepare(
    rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, packing: Any = None, **keys: Any
) -> Prepared:
    return prepare_data(preparation_of(rows, tokenizer, tmp_path, **keys), packing or PackingSection())


# Reading


@pytest.mark.parametrize(
    "answer", ["Yes.", {"role": "assistant", "content": "Yes."}, [{"role": "assistant", "content": "Yes."}]]
)
def test_an_answer_is_a_text_a_message_or_a_list(answer: Any):
    found = read({**ROW, "completion": answer, "label": False})
    assert said(found) == [("user", ASK["content"], False), ("assistant", "Yes.", True)]
    assert found.is_desirable is False


def test_without_a_column_for_it_the_last_message_is_the_answer():
    turns = [ASK, {"role": "assistant", "content": "No."}, ASK, {"role": "assistant", "content": "Yes."}]
    found = read({"messages": turns, "label": True})
    assert [learn for _, _, learn in said(found)] == [False, False, False, True]
    with pytest.raises(RowError, match="single message"):
        read({"messages": [ASK], "label": True})
    with pytest.raises(RowError, match="role `user`"):
        read({"messages": [ASK, ASK], "label": True})
    with pytest.raises(RowError, match="no column `answer`"):
        read({"messages": turns, "label": True}, field_completion="answer")


def test_columns_system_and_tools_are_those_of_the_entry():
    tool = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    row = {"talk": [{"from": "human", "value": "a"}], "good": False, "said": "  b\n", "system": "Be brief."}
    keys = {"field_messages": "talk", "field_completion": "said", "field_label": "good"}
    found = read({**row, "tools": [tool]}, **keys)
    assert said(found) == [("system", "Be brief.", False), ("user", "a", False), ("assistant", "  b\n", True)]
    assert found.answer.tools is not None  # type: ignore[union-attr]
    assert said(read(row, **keys, drop_system_message=True))[0][0] == "user"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": "yes"}, "'yes', which is neither true nor false"),
        ({"label": 1}, "1, which is neither true nor false"),
        ({"label": None}, "None, which is neither true nor false"),
        ({"completion": 3}, "neither a text nor messages"),
        ({"completion": [ASK]}, "role `user`, which is no answer"),
        ({"completion": {"role": "tool", "content": "x"}}, "no message that is learned"),
        ({"messages": []}, "no list of messages"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(change: dict[str, Any], problem: str):
    with pytest.raises(RowError, match=problem) as found:
        read({**ROW, **change})
    assert not isinstance(found.value, LeftOut)


@pytest.mark.parametrize("empty", ["", " \n", [], {"role": "assistant", "content": ""}])
def test_an_empty_answer_leaves_its_row_out(empty: Any):
    with pytest.raises(LeftOut):
        read({**ROW, "completion": empty})
    if isinstance(empty, dict):
        with pytest.raises(LeftOut):
            read({"messages": [ASK, empty], "label": True})


# From rows to packs


def test_samples_are_those_of_supervised_data(tokenizer: Any, tmp_path: Path):
    """Ids and labels of each answer: as if it were a conversation of which the last message alone is learned."""
    rows = [ROW, *rows_of(2)]
    found = prepare(rows, tokenizer, tmp_path)
    for number, row in enumerate(rows):
        answer, other = found.train[number]  # type: ignore[misc, index]
        partner = found.train.table.partners[number]  # type: ignore[union-attr]
        prompt = f"<|im_start|>user\n{row['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        for sample, text in ((answer, row["completion"]), (other, rows[partner]["completion"])):
            assert sample.input_ids.tolist() == tokenizer(f"{prompt}{text}<|im_end|>\n").input_ids
            assert tokenizer.decode(sample.input_ids[sample.labels != IGNORE]) == f"{text}<|im_end|>"
        assert (answer.is_desirable, other.is_desirable) == (row["label"], None)
    assert "  training: 2 answers are good, 1 are bad" in found.lines
    again = prepare(rows, tokenizer, tmp_path)
    assert "prepared before" in again.lines[0]
    assert [pack[0].is_desirable for pack in again.train] == [True, False, True]  # type: ignore[union-attr]


def test_what_cannot_be_used_is_counted_and_told_with_its_place(tokenizer: Any, tmp_path: Path):
    rows = [
        *rows_of(4),
        {**ROW, "completion": " "},
        {**ROW, "completion": "word " * 200},
        {**ROW, "label": "no"},
    ]
    with pytest.raises(DataError, match=r"judged\.jsonl.* 7 .*column `label` holds 'no'"):
        prepare(rows, tokenizer, tmp_path, sequence_len=64)
    found = prepare(rows, tokenizer, tmp_path, sequence_len=64, bad_rows="drop")
    assert found.counts[0].dropped == {
        EMPTY: 1,
        "over sequence_len": 1,
        "column `label` holds 'no', which is neither true nor false": 1,
    }


@pytest.mark.parametrize("packed", [False, True])
def test_packs_hold_both_within_the_length_and_sides_stay_apart(tokenizer: Any, tmp_path: Path, packed: bool):
    packing = PackingSection.model_validate({"sample_packing": packed})
    rows = [{**row, "completion": row["completion"] * (n % 9 + 1)} for n, row in enumerate(rows_of(40))]
    keys = {"val_set_size": 6, "sequence_len": 64, "shuffle_merged_datasets": True}
    found = prepare(rows, tokenizer, tmp_path, packing, **keys)
    assert found.validation is not None
    seen: list[set[str]] = []
    for dataset in (found.train, found.validation):
        texts = set()
        for number in range(len(dataset)):  # type: ignore[arg-type]
            pack = dataset[number]  # type: ignore[index]
            for wanted in (False, True):
                some = [sample for sample in pack if sample.is_mismatched == wanted]
                assert len(some) == len(pack) / 2
                assert sum(len(sample.input_ids) for sample in some) <= 64
            texts |= {tokenizer.decode(s.input_ids[s.labels != IGNORE]) for s in pack}
        seen.append(texts)
    assert len(seen[1]) <= 6
    assert not seen[0] & seen[1]
    if packed:
        assert max(len(found.train[number]) for number in range(len(found.train))) > 2  # type: ignore[arg-type, index]


def test_a_side_of_one_row_is_refused(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match=r"judged\.jsonl: .*training: .*there is one row"):
        prepare([ROW], tokenizer, tmp_path)
    with pytest.raises(DataError, match=r"judged\.jsonl: .*validation: .*there is one row") as found:
        prepare(rows_of(4), tokenizer, tmp_path, val_set_size=1)
    assert "two or more" in found.value.fix
    same = [{**row, "messages": [ASK]} for row in rows_of(4)]
    with pytest.raises(DataError, match="none of the 4 rows has both another prompt and"):
        prepare(same, tokenizer, tmp_path)
    equal = [{**row, "completion": "Yes."} for row in rows_of(4)]
    with pytest.raises(DataError, match="none of the 4 rows"):
        prepare(equal, tokenizer, tmp_path)


def test_equal_answers_of_two_judgements_are_two_rows(tokenizer: Any, tmp_path: Path):
    rows = [*rows_of(4), *rows_of(4), {**rows_of(1)[0], "label": True}]
    found = prepare(rows, tokenizer, tmp_path, dataset_exact_deduplication=True)
    assert len(found.train) == 5  # type: ignore[arg-type]


def test_inspect_says_which_answers_are_good(tokenizer: Any, tmp_path: Path):
    preparation = preparation_of([*rows_of(3), {**ROW, "completion": ""}], tokenizer, tmp_path)
    seen = inspect_data(preparation, PackingSection(), Choice(num_rows=4))
    assert [(row.samples[0].name, row.samples[0].use) for row in seen.rows[:3]] == [
        ("undesirable", "training"),
        ("desirable", "training"),
        ("desirable", "training"),
    ]
    assert seen.rows[3].reason == EMPTY
    assert (seen.sides[0].unit, seen.sides[0].num_samples) == ("answers", 3)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data folder is not beside this checkout")
def test_the_real_rows_are_read_as_they_are(tokenizer: Any, tmp_path: Path):
    rows = json.loads((SHARED_DATA / "kto_en_demo.json").read_text())[:40]
    found = prepare(rows, tokenizer, tmp_path, sequence_len=32768)
    for number, row in enumerate(rows):
        answer = found.train[number][0]  # type: ignore[index]
        text = tokenizer.decode(answer.input_ids[answer.labels != IGNORE])
        assert text.strip() == f"{row['messages'][-1]['content'].strip()}<|im_end|>"
        assert answer.is_desirable is row["label"]


# Answers of other rows


def sample_of(prompt: list[int], answer: list[int]) -> Sample:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return Sample(
        ids, np.where(np.arange(len(ids)) < len(prompt), IGNORE, ids).astype(np.int32), is_desirable=True
    )


def lengths(limit: int) -> DataSection:
    """Of a data set whose samples are given."""
    return DataSection.model_validate(
        {"datasets": [{"path": "rows.jsonl", "type": "chat_template"}], "sequence_len": limit}
    )


def match(samples: list[Sample], seed: int = 7, limit: int = 64, held_out: int = 0) -> MatchedTable:
    table, count = JoinedTable((build_table(samples),)), len(samples)
    split = Split(np.arange(count - held_out), np.arange(count - held_out, count) if held_out else None)
    return match_sides((table, None), split, lengths(limit), seed)[0]


_IDS = st.lists(st.integers(1, 2), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_IDS, _IDS), min_size=1, max_size=12), st.integers(0, 5), st.integers(6, 8))
def test_no_prompt_is_given_an_answer_of_its_own(drawn: Any, seed: int, limit: int):
    """Never its own row, never one with an equal prompt or an equal answer, also once cut; else it is refused."""
    samples = [sample_of(prompt, answer) for prompt, answer in drawn]

    def fits(one: int, other: int) -> bool:
        (prompt, answer), (others, theirs) = drawn[one], drawn[other]
        return prompt != others and answer != theirs[: limit - len(prompt)]

    possible = all(any(fits(one, other) for other in range(len(drawn))) for one in range(len(drawn)))
    if not possible:
        with pytest.raises(DataError, match="the answer of another row behind each prompt"):
            match(samples, seed, limit)
        return
    table = match(samples, seed, limit)
    assert np.array_equal(table.partners, match(samples, seed, limit).partners)
    for number in range(len(samples)):
        assert fits(number, int(table.partners[number]))
        own, other = table.take(number)
        prompt, answer = drawn[number]
        theirs = drawn[int(table.partners[number])][1]
        assert own.input_ids.tolist() == prompt + answer
        assert other.input_ids.tolist() == (prompt + theirs)[:limit]
        assert (other.labels != IGNORE).tolist() == [False] * len(prompt) + [True] * (
            len(other.labels) - len(prompt)
        )
        assert table.sample_lengths[number].tolist() == [len(own.input_ids), len(other.input_ids)]


def test_partners_change_with_the_seed_and_stay_on_their_side():
    samples = [sample_of([n + 1] * 3, [100 + n] * 4) for n in range(200)]
    table = match(samples, held_out=50)
    assert not np.array_equal(table.partners, match(samples, seed=8, held_out=50).partners)
    assert (table.partners[:150] < 150).all()
    assert (table.partners[150:] >= 150).all()
    # All answers are used alike: a shuffled circle gives each to one prompt
    assert len(set(table.partners.tolist())) == 200


def test_many_rows_of_few_answers_are_matched():
    """Yes or no: half of all rows have the answer of any row."""
    samples = [sample_of([n % 500 + 1, n // 500 + 1], [7] if n % 10 else [8]) for n in range(2000)]
    table = match(samples)
    answers = np.array([sample.input_ids[-1] for sample in samples])
    assert (answers[table.partners] != answers).all()


def test_an_answer_that_is_equal_once_cut_is_no_other_answer():
    samples = [sample_of([1, 1, 1], [5, 5]), sample_of([2], [5, 5, 9]), sample_of([3], [6, 6])]
    table = match(samples, limit=5)
    assert table.partners[0] == 2
    assert len(table.take(0)[1].input_ids) == 5


# The columns of published data sets, and prompts of your own

_YES = {"completion": "Yes.", "label": True}
_LAYOUTS = {
    "argilla": {"instruction": "Salty?", **_YES},
    "argilla_chat": {
        "completion": [{"role": "user", "content": "Salty?"}, {"role": "assistant", "content": "Yes."}],
        "label": True,
    },
    "intel": {"question": "Salty?", "system": "Be brief.", **_YES},
    "prompt_pairs": {"prompt": "Salty?", **_YES},
    "ultra": {"prompt": [{"role": "user", "content": "Salty?"}], **_YES},
}


@pytest.mark.parametrize("head", ["chat_template", "chatml", "llama3"])
@pytest.mark.parametrize("name", _LAYOUTS)
def test_columns_of_published_data_sets(head: str, name: str):
    found = read(_LAYOUTS[name], type=f"{head}.{name}")
    system = [("system", "Be brief.", False)] if name == "intel" else []
    assert said(found) == [*system, ("user", "Salty?", False), ("assistant", "Yes.", True)]
    with pytest.raises(RowError, match="neither true nor false"):
        read({**_LAYOUTS[name], "label": "yes"}, type=f"{head}.{name}")


def test_a_named_template_renders_whatever_the_data_set_says(tokenizer: Any, tmp_path: Path):
    rows = [{"prompt": f"{n}?", "completion": f"Yes {n}.", "label": n > 0} for n in range(2)]
    entry = {"type": "llama3.ultra"}
    found = prepare(rows, tokenizer, tmp_path, entry=entry)
    sample = found.train[0][0]  # type: ignore[index]
    assert "<|start_header_id|>user<|end_header_id|>\n\n0?<|eot_id|>" in tokenizer.decode(sample.input_ids)
    assert tokenizer.decode(sample.input_ids[sample.labels != IGNORE]) == "Yes 0.<|eot_id|>"


def test_a_prompt_of_your_own(tokenizer: Any, tmp_path: Path):
    form = {
        "field_prompt": "q",
        "field_completion": "a",
        "field_label": "good",
        "field_system": "s",
        "system_format": "{system}\n",
        "prompt_format": "{system}Q: {prompt}\nA: ",
        "completion_format": "<{completion}>",
    }
    rows = [{"q": f"{n}?", "a": f"{n}", "good": n > 1, "s": "Be brief." if n else None} for n in range(3)]
    found = prepare(rows, tokenizer, tmp_path, entry={"type": form})
    texts = [tokenizer.decode(pack[0].input_ids) for pack in found.train]  # type: ignore[union-attr]
    assert texts[:2] == ["Q: 0?\nA: <0><|im_end|>", "Be brief.\nQ: 1?\nA: <1><|im_end|>"]
    sample = found.train[2][0]  # type: ignore[index]
    assert tokenizer.decode(sample.input_ids[sample.labels != IGNORE]) == "<2><|im_end|>"
    assert sample.is_desirable
    with pytest.raises(LeftOut):
        read({"q": "x", "a": " ", "good": True, "s": ""}, type=form)
    with pytest.raises(RowError, match="column `good`"):
        read({"q": "x", "a": "y", "good": 0, "s": ""}, type=form)
