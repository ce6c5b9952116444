"""What the formats do with rows that are odd, and with rows that they cannot use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, SHARED_DATA
from tests.unit.data.samples import ids_of
from tests.unit.data.test_formats_golden import CASES
from tests.unit.data.test_prepare import prepare, write_rows

from siredon.config.sections.data import DatasetEntry
from siredon.config.shelves import FORMATS
from siredon.data.choose import choose_format
from siredon.data.types import ReadOptions, RowError, Span, Text

ROWS: dict[str, dict[str, Any]] = {
    case["type"]: case["row"] for case in CASES if isinstance(case["type"], str)
}
#: Type -> columns of text that a row must have, and that must not be empty.
REQUIRED = {
    "alpaca": ["instruction", "output"],
    "alpaca:chat": ["instruction", "output"],
    "alpaca_chat.load_concise": ["instruction", "output"],
    "alpaca_chat.load_qa": ["question", "answer"],
    "alpaca_chat.load_camel_ai": ["message_1", "message_2"],
    "alpaca_chat.load_no_prompt": ["instruction", "output"],
    "alpaca_instruct.load_no_prompt": ["instruction", "output"],
    "alpaca_w_system": ["instruction", "output"],
    "alpaca_w_system.load_open_orca": ["question", "response"],
    "orcamini": ["question", "response"],
    "gpteacher": ["instruction", "response"],
    "oasst": ["INSTRUCTION", "RESPONSE"],
    "jeopardy": ["question", "category", "answer"],
    "summarizetldr": ["article", "summary"],
    "explainchoice": ["question"],
    "concisechoice": ["question", "explanation"],
    "reflection": ["instruction", "output", "reflection", "corrected"],
    "context_qa": ["article", "question", "answer"],
    "context_qa.load_v2": ["context", "question", "answer"],
    "context_qa.load_404": ["article", "unanswerable_question"],
    "creative_acr.load_answer": ["instruction", "revision"],
    "creative_acr.load_critique": ["instruction", "answer"],
    "creative_acr.load_revise": ["instruction", "answer", "revision"],
    "metharme": ["prompt", "generation"],
    "completion": ["text"],
    "pretrain": ["text"],
}
COLUMNS = [(name, column) for name, columns in REQUIRED.items() for column in columns]


def read(name: Any, row: Any, *, eos: str = "</s>", bos: str = "<s>", **entry: Any) -> Any:
    parsed = DatasetEntry.model_validate({"path": "x", "type": name, **entry})
    return choose_format(parsed).read(row, ReadOptions(parsed, False, bos, eos, num_tokens=100))


def text_of(item: Any) -> str:
    assert isinstance(item, Text)
    return "".join(span.text for span in item.spans)


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_column_that_is_needed_must_be_there_and_hold_text(name: str, column: str):
    row = {"text": "A text.", **ROWS[name]} if name == "completion" else ROWS[name]
    without = {key: value for key, value in row.items() if key != column}
    wanted = "solution" if column == "explanation" else column
    with pytest.raises(RowError, match=rf"^has no column `{wanted}`"):
        read(name, without)
    for value, reason in (
        (None, "holds NoneType, not text"),
        (7, "holds int, not text"),
        (" \n", "is empty"),
    ):
        with pytest.raises(RowError, match=f"^column `{column}` {reason}$"):
            read(name, {**row, column: value})


@pytest.mark.parametrize(
    ("name", "column"), [("alpaca", "input"), ("gpteacher", "input"), ("reflection", "input")]
)
def test_an_input_may_be_missing_null_or_empty_but_nothing_else(name: str, column: str):
    row = {key: value for key, value in ROWS[name].items() if key != column}
    texts = {text_of(read(name, given)) for given in (row, {**row, column: None}, {**row, column: ""})}
    assert len(texts) == 1
    assert "Input" not in texts.pop()
    with pytest.raises(RowError, match="`input` holds list, not text"):
        read(name, {**row, column: ["a"]})


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("alpaca_w_system", "system"),
        ("orcamini", "system_prompt"),
        ("alpaca_w_system.load_open_orca", "system_prompt"),
    ],
)
def test_a_system_text_may_be_null_or_empty_but_its_column_must_be_there(name: str, column: str):
    row = ROWS[name]
    assert text_of(read(name, {**row, column: None})) == text_of(read(name, {**row, column: ""}))
    assert "ystem" not in text_of(read(name, {**row, column: None}))
    assert "SYS" not in text_of(read(name, {**row, column: None})).upper()
    with pytest.raises(RowError, match=f"no column `{column}`"):
        read(name, {key: value for key, value in row.items() if key != column})


def test_nothing_is_trimmed_and_braces_are_only_braces():
    spans = read(
        "alpaca", {"instruction": "  {input} {0} %s\n", "input": " {x}\n\n", "output": "\n {y} "}
    ).spans
    assert "### Instruction:\n  {input} {0} %s\n\n\n### Input:\n {x}\n\n\n\n### Response:\n" in spans[0].text
    assert spans[1] == Span("\n {y} ", True)
    turns = [{"from": "human", "value": " a "}, {"from": "gpt", "value": "b  "}]
    assert "\n<</SYS>>\n\n a  [/INST] b   </s>" in text_of(read("llama2_chat", {"conversations": turns}))
    turns = [{"role": "human", "value": " a "}, {"role": "bot", "value": "b "}]
    assert text_of(read("pygmalion", {"conversations": turns})) == "<|user|>  a <|model|> b </s>"


@pytest.mark.parametrize("name", ["alpaca", "metharme", "completion", "oasst", "creative_acr.load_revise"])
def test_an_answer_that_ends_in_the_stop_token_gets_no_second_one(name: str):
    column = {"alpaca": "output", "metharme": "generation", "completion": "text", "oasst": "RESPONSE"}
    row = {**ROWS[name], column.get(name, "revision"): "Done.</s>"}
    assert read(name, row).add_eos is False
    assert read(name, row, eos="<|im_end|>").add_eos is True
    assert read(name, row, eos="").add_eos is True


def test_turns_end_in_one_stop_token_each():
    turns = [
        {"role": "human", "value": "a"},
        {"role": "bot", "value": "b</s>"},
        {"role": "bot", "value": "c"},
    ]
    item = read("pygmalion", {"conversations": turns})
    assert text_of(item) == "<|user|> a<|model|> b</s><|model|> c</s>"
    assert item.add_eos is False
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b</s>"}]
    assert text_of(read("llama2_chat", {"conversations": turns})).endswith("[/INST] b</s>")
    assert text_of(read("llama2_chat", {"conversations": turns}, eos="")).endswith("[/INST] b</s>")


@pytest.mark.parametrize("name", ["pygmalion", "llama2_chat"])
@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (None, "holds no list of messages"),
        ([], "holds no list of messages"),
        ("text", "holds no list of messages"),
        (["a"], "message 1 is no object"),
        ([{"role": "human", "from": "human"}], "message 1 has no text in `value`"),
        ([{"role": "human", "from": "human", "value": " "}], "message 1 has no text in `value`"),
        ([{"role": None, "from": 3, "value": "a"}], "message 1 has no text in `(role|from)`"),
    ],
)
def test_messages_that_are_none_are_refused(name: str, turns: Any, reason: str):
    with pytest.raises(RowError, match=reason):
        read(name, {"conversations": turns})
    with pytest.raises(RowError, match="no column `conversations`; it has `messages`"):
        read(name, {"messages": turns})


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["gpt", "human"], "message 1 is from `gpt`: expected human"),
        (["system", "human", "human"], "message 3 is from `human`: expected gpt"),
        (["human", "gpt", "tool"], "message 3 is from `tool`: expected human"),
        (["human", "system"], "message 2 is from `system`: expected gpt"),
        (["human"], "has no answer from gpt"),
        (["system"], "has no answer from gpt"),
    ],
)
def test_llama2_takes_turns(roles: list[str], reason: str):
    turns = [{"from": role, "value": "a"} for role in roles]
    with pytest.raises(RowError, match=f"^{reason}$"):
        read("llama2_chat", {"conversations": turns})


def test_the_tokens_of_the_tokenizer_reach_the_turns(tokenizer: Any, tmp_path: Path):
    turns = [{"role": "human", "value": "a"}, {"role": "bot", "value": "b"}] * 2
    entry = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns}])
    train = prepare(tokenizer, tmp_path, datasets=[{**entry, "type": "pygmalion"}]).train
    turn = "<|user|> a<|model|> b<|im_end|>"
    assert tokenizer.decode(ids_of(train)) == turn * 2


def test_llama2_separates_turns_by_the_tokens_of_the_tokenizer():
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}] * 2
    item = read("llama2_chat", {"conversations": turns}, bos="", eos="<end>")
    assert text_of(item).endswith("a [/INST] b <end>[INST] a [/INST] b <end>")
    assert [span.learn for span in item.spans] == [False, True, False, True]


def test_pygmalion_refuses_what_it_does_not_know_and_what_teaches_nothing():
    with pytest.raises(RowError, match="message 2 is of the role `gpt`: expected system, human or bot"):
        read("pygmalion", {"conversations": [{"role": "bot", "value": "a"}, {"role": "gpt", "value": "b"}]})
    with pytest.raises(RowError, match=r"no message of the role that is learned \(bot\)"):
        read("pygmalion", {"conversations": [{"role": "human", "value": "a"}]})


@pytest.mark.parametrize("choices", [None, [], "a, b", [1, 2], {"text": ["a"]}])
def test_choices_are_a_list_of_texts(choices: Any):
    for name in ("explainchoice", "concisechoice"):
        with pytest.raises(RowError, match="column `choices` holds no list of texts"):
            read(name, {**ROWS[name], "choices": choices})


def test_a_solution_is_learned_before_an_explanation():
    row = {"question": "a?", "choices": ["b", "c"], "solution": "b", "explanation": "because"}
    assert read("explainchoice", row).spans[1].text == "b"
    assert read("explainchoice", {**row, "solution": None}).spans[1].text == "because"
    assert (
        read("explainchoice", {key: row[key] for key in ("question", "choices", "solution")}).spans[1].text
        == "b"
    )
    with pytest.raises(RowError, match="column `explanation` holds NoneType"):
        read("explainchoice", {**row, "solution": None, "explanation": None})


def test_an_evaluation_is_text_or_yaml_under_its_name():
    row = {"instruction": "a", "answer": "b", "revision": "c"}
    long = "wörd " * 40
    made = read("creative_acr.load_critique", {**row, "scores": {"z": 1, "a": 2}, "critiques": {"z": long}})
    assert made.spans[1].text == f"scores:\n  z: 1\n  a: 2\ncritiques:\n  z: '{long}'\n"
    named = {"scores": {"scores": {"z": 1}}, "critiques": "free text"}
    assert (
        read("creative_acr.load_critique", {**row, **named}).spans[1].text == "scores:\n  z: 1\nfree text\n"
    )
    for value in (None, "", {}, [1]):
        with pytest.raises(RowError, match="`critiques` holds neither text nor an object"):
            read("creative_acr.load_revise", {**row, "scores": "1", "critiques": value})


def test_an_article_that_does_not_tell_needs_no_answer():
    row = {"article": "a", "unanswerable_question": "b?", "answer": None}
    assert "does not contain any information" in read("context_qa.load_404", row).spans[1].text


def test_conversations_are_in_a_column_of_that_name_unless_another_is_named():
    row = {"conversations": [{"from": "gpt", "value": "a"}], "talk": [{"from": "gpt", "value": "b"}]}
    for name in ("sharegpt", "conversations"):
        assert read(name, row).messages[0].content == "a"
        assert read(name, row, field_messages="talk").messages[0].content == "b"
        with pytest.raises(RowError, match="no column `messages`"):
            read(name, row, field_messages="messages")
    with pytest.raises(RowError, match="no column `messages`"):
        read("messages", row)


def test_a_prompt_of_metharme_may_be_a_whole_one():
    prompt = choose_format(DatasetEntry.model_validate({"path": "x", "type": "metharme"})).prompt
    assert text_of(prompt("Hi")) == "<|user|>Hi<|model|>"
    assert text_of(prompt("<|system|>Be Mira.<|user|>Hi<|model|>")) == "<|system|>Be Mira.<|user|>Hi<|model|>"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("file", ["alpaca_en_demo.json", "identity.json"])
def test_real_rows_are_read_in_every_style(file: str):
    rows = json.loads((SHARED_DATA / file).read_text())
    for name in ("alpaca", "alpaca:chat", "alpaca:chatml", "alpaca:phi", "alpaca_chat.load_concise"):
        for row in rows:
            assert read(name, row).spans[1] == Span(row["output"], True)
            assert row["instruction"] in read(name, row).spans[0].text
            assert row["input"] in read(name, row).spans[0].text


DOCUMENT = (ROOT / "docs/formats.md").read_text()
EXAMPLES = [
    json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
]


def can_read(name: str, row: Any) -> bool:
    try:
        return read(name, row) is not None
    except RowError:
        return False


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: ",".join(row))
def test_an_example_of_the_documents_is_a_row(row: Any):
    assert any(can_read(name, row) for name in (*ROWS, "tokenized"))


def test_the_documents_name_every_format():
    assert len(EXAMPLES) > 15
    heads = set(re.findall(r"^\| \[?`.*?\|", DOCUMENT, re.MULTILINE))
    named = {word.partition(".")[0] for cell in heads for word in re.findall(r"`([\w.]+)`", cell)}
    elsewhere = {"user_defined", "stepwise_supervised"}  # the latter among reward models
    assert set(FORMATS.names()) - elsewhere <= named
