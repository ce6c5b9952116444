"""Rows with two answers: read, rendered as supervised data is, checked, and kept together from cache to batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import PREFERENCE_FORMATS
from siredon.data.audit import NO_TARGETS
from siredon.data.choose import choose_format
from siredon.data.inspect import Choice, inspect_data
from siredon.data.pairs import ALL_ANSWER, BROKEN_PROMPT, EQUAL, find_fault, trim_prompt
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.data.types import IGNORE, LeftOut, Preference, ReadOptions, RowError, Sample
from siredon.errors import DataError

ASK = {"role": "user", "content": "Is the sea salty?"}
#: One prompt, with a better and a worse answer.
ROW: dict[str, Any] = {"messages": [ASK], "chosen": "Yes.", "rejected": "No, not at all."}


def entry_of(**keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": "x", "type": "chat_template.default", **keys})


def read(row: dict[str, Any], **keys: Any) -> Preference:
    entry = entry_of(**keys)
    found = choose_format(entry, PREFERENCE_FORMATS).read(row, ReadOptions(entry, False))
    assert isinstance(found, Preference)
    return found


def said(side: Any) -> list[tuple[str, str, bool]]:
    return [(message.role, message.content, message.learn) for message in side.messages]


def prepare(
    rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, packing: Any = None, **keys: Any
) -> Prepared:
    return prepare_data(preparation_of(rows, tokenizer, tmp_path, **keys), packing or PackingSection())


def preparation_of(rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, **keys: Any) -> Preparation:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSection.model_validate(
        {
            "datasets": [{"path": str(path), "type": keys.pop("type", "chat_template.default")}],
            "dataset_prepared_path": str(tmp_path / "prepared"),
            "shuffle_merged_datasets": False,
            **keys,
        }
    )
    return Preparation(tokenizer, TokenizerSection(), data, 7, formats=PREFERENCE_FORMATS)


# Reading


@pytest.mark.parametrize(
    "answer",
    ["Yes.", {"role": "assistant", "content": "Yes."}, [{"role": "assistant", "content": "Yes."}]],
)
def test_an_answer_is_a_text_a_message_or_a_list(answer: Any):
    found = read({**ROW, "chosen": answer})
    assert said(found.chosen) == [("user", ASK["content"], False), ("assistant", "Yes.", True)]
    assert said(found.rejected) == [("user", ASK["content"], False), ("assistant", "No, not at all.", True)]


def test_columns_names_and_roles_are_those_of_the_entry():
    row = {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "human", "value": "c"},
        ],
        "good": {"from": "gpt", "value": "d"},
        "bad": {"from": "gpt", "value": "e"},
    }
    keys = {"field_messages": "conversations", "field_chosen": "good", "field_rejected": "bad"}
    plain = read(row, **keys)
    mapped = read(
        row,
        **keys,
        message_property_mappings={"role": "from", "content": "value"},
        roles={"assistant": ["gpt"], "user": ["human"]},
    )
    for found in (plain, mapped):
        assert said(found.rejected) == [
            ("user", "a", False),
            ("assistant", "b", False),
            ("user", "c", False),
            ("assistant", "e", True),
        ]


def test_text_with_mapped_names_is_an_answer_as_it_stands():
    row = {"messages": [{"who": "user", "what": "a"}], "chosen": "  b\n", "rejected": '{"c": 1}'}
    found = read(row, message_property_mappings={"role": "who", "content": "what"})
    assert found.chosen.messages[-1].content == "  b\n"
    assert found.rejected.messages[-1].content == '{"c": 1}'


def test_system_tools_and_thinking_are_kept():
    tool = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {}}]}
    row = {
        "messages": [ASK],
        "system": "Be brief.",
        "tools": [tool],
        "chosen": [call, {"role": "tool", "content": "salty"}, {"role": "assistant", "content": "Yes."}],
        "rejected": {"role": "assistant", "content": "No.", "reasoning_content": "Hm."},
    }
    found = read(row)
    assert said(found.chosen)[0] == ("system", "Be brief.", False)
    assert [message.learn for message in found.chosen.messages] == [False, False, True, False, True]
    assert found.rejected.messages[-1].properties["reasoning_content"] == "Hm."
    assert found.chosen.tools == found.rejected.tools
    assert found.chosen.tools is not None
    assert said(read(row, drop_system_message=True).chosen)[0][0] == "user"


def test_whole_conversations_share_what_they_begin_with():
    start = [{"role": "system", "content": "s"}, ASK]
    row = {
        "chosen": [*start, {"role": "assistant", "content": "Yes."}],
        "rejected": [*start, {"role": "assistant", "content": "No."}],
    }
    found = read(row, type="chat_template.argilla_chat")
    assert [learn for _, _, learn in said(found.chosen)] == [False, False, True]
    assert said(found.rejected)[-1] == ("assistant", "No.", True)
    same = read({**row, "rejected": row["chosen"]}, type="chat_template.argilla_chat")
    assert said(same.chosen) == said(same.rejected)
    with pytest.raises(RowError, match="no prompt that both answer"):
        read({**row, "rejected": row["rejected"][1:]}, type="chat_template.argilla_chat")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"messages": "text"}, "no JSON"),
        ({"messages": []}, "no list of messages"),
        ({"chosen": 3}, "neither a text nor messages"),
        ({"chosen": [ASK, {"role": "assistant", "content": "Yes."}]}, "argilla_chat"),
        ({"chosen": {"role": "tool", "content": "x"}}, "no message that is learned"),
        ({"rejected": {"content": "x"}}, "its role"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(change: dict[str, Any], problem: str):
    with pytest.raises(RowError, match=problem) as found:
        read({**ROW, **change})
    assert not isinstance(found.value, LeftOut)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(RowError, match="no column `rejected`"):
        read({"messages": [ASK], "chosen": "Yes."})


@pytest.mark.parametrize("empty", ["", "  \n", [], {"role": "assistant", "content": ""}])
def test_an_empty_answer_leaves_its_row_out(empty: Any):
    with pytest.raises(LeftOut):
        read({**ROW, "rejected": empty})


# From rows to packs


def test_samples_are_those_of_supervised_data(tokenizer: Any, tmp_path: Path):
    """Ids and labels of each side: as if it were a conversation of which the last message alone is learned."""
    rows = [ROW, {**ROW, "chosen": "Yes, it is.\n", "rejected": "?"}]
    found = prepare(rows, tokenizer, tmp_path)
    for number, row in enumerate(rows):
        pair = found.train[number]
        for sample, answer in zip(pair, (row["chosen"], row["rejected"]), strict=True):
            prompt = f"<|im_start|>user\n{ASK['content']}<|im_end|>\n<|im_start|>assistant\n"
            learned = f"{answer}<|im_end|>"
            before = tokenizer(prompt, add_special_tokens=False).input_ids
            ids = tokenizer(f"{prompt}{learned}\n", add_special_tokens=False).input_ids
            assert sample.input_ids.tolist() == ids
            is_learned = sample.labels != IGNORE
            assert tokenizer.decode(sample.input_ids[is_learned]) == learned
            assert is_learned.argmax() == len(before)
    assert "2 rows -> 2 pairs" in found.lines[0]


def test_a_pair_is_dropped_whole_and_counted(tokenizer: Any, tmp_path: Path):
    long = " ".join(["word"] * 200)
    rows = [
        ROW,
        {**ROW, "rejected": "Yes."},
        {**ROW, "chosen": long},
        {**ROW, "rejected": long},
        {**ROW, "rejected": " "},
    ]
    found = prepare(rows, tokenizer, tmp_path, sequence_len=64)
    (counts,) = found.counts
    assert counts.dropped == {
        EQUAL: 1,
        "over sequence_len": 2,
        "an answer is empty": 1,
    }
    assert len(found.train) == 1
    again = prepare(rows, tokenizer, tmp_path, sequence_len=64)
    assert again.counts == found.counts
    assert "prepared before" in again.lines[0]
    with pytest.raises(DataError, match=r"line 3 .*has .* tokens|3.*tokens, over sequence_len"):
        prepare(rows, tokenizer, tmp_path, sequence_len=64, excess_length_strategy="raise")


def test_a_token_that_lies_across_the_end_of_the_prompt_on_one_side_is_a_fault():
    """`\\n` and an answer that begins with `\\n` may be one token, which would be learned of one answer alone."""
    ids = [
        np.array(values, dtype=np.int32) for values in ([5, 6, 9, 3], [5, 7, 3], [5, 6, 8, 3], [5, 6, 8, 3])
    ]
    one, joined, other, equal = (
        Sample(values, np.where(np.arange(len(values)) < (1 if len(values) == 3 else 2), IGNORE, values))
        for values in ids
    )
    assert find_fault([one, joined]) == find_fault([joined, one]) == BROKEN_PROMPT
    assert find_fault([one, other]) == ""
    assert find_fault([other, equal]) == EQUAL
    assert find_fault([one, Sample(one.input_ids, np.full(4, IGNORE, dtype=np.int32))]) == NO_TARGETS


def test_truncated_answers_that_become_equal_are_dropped(tokenizer: Any, tmp_path: Path):
    start = " ".join(["word"] * 60)
    rows = [ROW, {**ROW, "chosen": f"{start} a", "rejected": f"{start} b"}]
    found = prepare(rows, tokenizer, tmp_path, sequence_len=40, excess_length_strategy="truncate")
    assert found.counts[0].dropped == {EQUAL: 1}
    assert (found.counts[0].num_truncated, len(found.train)) == (1, 1)


def test_a_prompt_that_leaves_no_room_for_an_answer_drops_its_pair(tokenizer: Any, tmp_path: Path):
    rows = [ROW, {**ROW, "messages": [{"role": "user", "content": " ".join(["word"] * 60)}]}]
    found = prepare(rows, tokenizer, tmp_path, sequence_len=40, excess_length_strategy="truncate")
    assert found.counts[0].dropped == {NO_TARGETS: 1}
    assert len(found.train) == 1


def test_the_beginning_of_a_prompt_is_cut_and_answers_stay_whole(tokenizer: Any, tmp_path: Path):
    long = " ".join(["word"] * 60)
    asked = [{"role": "user", "content": long}]
    rows = [
        ROW,
        {**ROW, "messages": asked},
        {**ROW, "chosen": long},
        {**ROW, "messages": asked, "chosen": long},
    ]
    keys = {"excess_length_strategy": "truncate", "excess_length_side": "prompt"}
    whole = prepare(rows, tokenizer, tmp_path, sequence_len=2_000)
    found = prepare(rows, tokenizer, tmp_path, sequence_len=40, **keys)
    (counts,) = found.counts
    assert counts.dropped == {ALL_ANSWER: 2}
    assert (counts.num_truncated, counts.num_with_stop, len(found.train)) == (1, 2, 2)
    for number in (0, 1):
        sides, before = found.train.table.take(number), whole.train.table.take(number)
        assert max(len(side.input_ids) for side in sides) <= 40
        for side, other in zip(sides, before, strict=True):
            num_cut = len(other.input_ids) - len(side.input_ids)
            assert side.input_ids.tolist() == other.input_ids[num_cut:].tolist()
            assert side.labels.tolist() == other.labels[num_cut:].tolist()
        assert find_fault(sides) == ""
    # Both sides lost the same, so that the longer one fits exactly
    assert max(len(side.input_ids) for side in found.train.table.take(1)) == 40
    # Samples that are cut elsewhere are others
    cut = prepare(rows, tokenizer, tmp_path, sequence_len=40, excess_length_strategy="truncate")
    assert cut.counts[0].dropped != counts.dropped


@pytest.mark.parametrize(
    ("limit", "bos", "kept"),
    [(6, None, [4, 5, 6, 7]), (6, 3, [3, 5, 6, 7]), (5, 3, [3, 6, 7]), (4, 3, [3, 7]), (3, None, [7])],
)
def test_a_prompt_is_cut_behind_the_token_that_begins_it(limit: int, bos: int | None, kept: list[int]):
    sides = [pair_side([3, 4, 5, 6, 7], answer) for answer in ([8, 9], [8])]
    found, is_cut, reason = trim_prompt(sides, limit, bos)
    assert (is_cut, reason) == (True, "")
    assert [side.input_ids.tolist() for side in found] == [[*kept, 8, 9], [*kept, 8]]
    assert [side.num_targets for side in found] == [2, 1]


def test_one_token_stays_before_an_answer():
    sides = [pair_side([3, 4], answer) for answer in ([8, 9, 10], [8])]
    assert trim_prompt(sides, 5, 3) == (sides, False, "")
    assert trim_prompt(sides, 4, 3)[0][0].input_ids.tolist() == [3, 8, 9, 10]
    assert trim_prompt(sides, 3, 3)[1:] == trim_prompt(sides, 3, None)[1:] == (False, ALL_ANSWER)


def pair_side(prompt: list[int], answer: list[int]) -> Sample:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return Sample(ids, np.where(np.arange(len(ids)) < len(prompt), IGNORE, ids).astype(np.int32))


def test_a_bad_row_is_told_with_its_place(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match=r"pairs\.jsonl.* 2 .*no column `chosen`"):
        prepare([ROW, {"messages": [ASK], "rejected": "x"}], tokenizer, tmp_path)
    found = prepare([ROW, {"messages": [ASK], "rejected": "x"}], tokenizer, tmp_path, bad_rows="drop")
    assert found.counts[0].num_dropped == 1


def test_a_template_that_shows_the_prompt_by_the_answer_is_refused(tokenizer: Any, tmp_path: Path):
    template = (
        "{% if messages[-1].reasoning_content %}Think.{% else %}Answer.{% endif %}\n"
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\\n' }}"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = {**ROW, "chosen": {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}}
    preparation = preparation_of([row], tokenizer, tmp_path)
    section = TokenizerSection.model_validate({"chat_template": "jinja", "chat_template_jinja": template})
    changed = Preparation(tokenizer, section, preparation.data, 7, formats=PREFERENCE_FORMATS)
    with pytest.raises(DataError, match="another prompt"):
        prepare_data(changed, PackingSection())


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": f"Number {n}?"}],
            "chosen": "Yes " * (n % 7 + 1),
            "rejected": f"No {n}",
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_no_pair_is_torn_apart(tokenizer: Any, tmp_path: Path, packed: bool):
    packing = PackingSection.model_validate({"sample_packing": packed})
    found = prepare(
        rows_of(40),
        tokenizer,
        tmp_path,
        packing,
        val_set_size=6,
        sequence_len=64,
        shuffle_merged_datasets=True,
    )
    assert found.validation is not None
    prompts = []
    for dataset in (found.train, found.validation):
        for number in range(len(dataset)):  # type: ignore[arg-type]
            pack = dataset[number]  # type: ignore[index]
            assert len(pack) % 2 == 0
            assert sum(len(sample.input_ids) for sample in pack) <= 128
            for chosen, rejected in zip(pack[0::2], pack[1::2], strict=True):
                starts = [int(np.argmax(side.labels != IGNORE)) for side in (chosen, rejected)]
                assert np.array_equal(chosen.input_ids[: starts[0]], rejected.input_ids[: starts[1]])
                text = tokenizer.decode(chosen.input_ids)
                assert "Yes" in text
                prompts.append(text)
    assert len(set(prompts)) == len(prompts) == 40
    if packed:
        assert max(len(found.train[number]) for number in range(len(found.train))) > 2  # type: ignore[arg-type, index]


def test_equal_pairs_are_one_and_never_on_both_sides(tokenizer: Any, tmp_path: Path):
    twice = [*rows_of(20), *rows_of(20)]
    found = prepare(twice, tokenizer, tmp_path, dataset_exact_deduplication=True)
    assert len(found.train) == 20  # type: ignore[arg-type]
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows_of(20)]
    found = prepare([*rows_of(20), *swapped], tokenizer, tmp_path, dataset_exact_deduplication=True)
    assert len(found.train) == 40  # type: ignore[arg-type]


def test_the_same_rows_read_as_conversations_are_other_samples(tokenizer: Any, tmp_path: Path):
    """`type: chat_template` names two formats: they must not meet in the cache."""
    rows = [{**ROW, "messages": [ASK, {"role": "assistant", "content": "Sure."}, ASK]}]
    pairs = preparation_of(rows, tokenizer, tmp_path, type="chat_template")
    one = prepare_data(pairs, PackingSection())
    other = prepare_data(Preparation(tokenizer, TokenizerSection(), pairs.data, 7), PackingSection())
    assert (len(one.train[0]), len(other.train[0])) == (2, 1)  # type: ignore[index]


def test_inspect_shows_both_sides(tokenizer: Any, tmp_path: Path):
    preparation = preparation_of([ROW, {**ROW, "rejected": "Yes."}], tokenizer, tmp_path)
    seen = inspect_data(preparation, PackingSection(), Choice(num_rows=2))
    first, second = seen.rows
    assert [(sample.name, sample.use) for sample in first.samples] == [
        ("chosen", "training"),
        ("rejected", "training"),
    ]
    assert seen.sides[0].unit == "pairs"
    texts = ["".join(piece.text for piece in sample.pieces if piece.learned) for sample in first.samples]
    assert texts == ["Yes.<|im_end|>", "No, not at all.<|im_end|>"]
    assert second.reason == EQUAL
    assert seen.sides[0].num_samples == 1
