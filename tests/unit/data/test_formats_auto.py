"""`type: auto`: which format is taken for which rows, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED_DATA
from tests.unit.data.samples import ids_of, labels_of
from tests.unit.data.test_formats_golden import CASES
from tests.unit.data.test_prepare import prepare, write_rows

from siredon.config.sections.data import DatasetEntry
from siredon.data.choose import choose_format
from siredon.data.formats.auto import detect_format
from siredon.data.load import load_rows
from siredon.data.peek import NUM_ROWS, first_rows
from siredon.errors import DataError

#: Types whose rows are those of another, which is taken for them; empty where one must choose.
ALIKE = {
    "alpaca_chat": "alpaca",
    "alpaca_chat.load": "alpaca",
    "alpaca_chat.load_concise": "alpaca",
    "alpaca_chat.load_no_prompt": "alpaca",
    "alpaca_instruct": "alpaca",
    "alpaca_instruct.load": "alpaca",
    "alpaca_instruct.load_no_prompt": "alpaca",
    "alpaca_w_system": "alpaca_w_system.load_instruct",
    "alpaca_w_system.load": "alpaca",  # Its row has an empty system text
    "alpaca_w_system.load_chat": "alpaca_w_system.load_instruct",
    "alpaca_w_system.load_open_orca": "",
    "alpaca_w_system.load_open_orca_chatml": "",
    "chat_template": "messages",
    "concisechoice": "",
    "context_qa": "context_qa.load",
    "creative_acr": "",
    "creative_acr.load_answer": "",
    "creative_acr.load_critique": "",
    "creative_acr.load_revise": "",
    "explainchoice": "",
    "llama2_chat": "sharegpt",
    "orcamini": "",
    "pretrain": "completion",
}
#: Rows with columns of the usual names, none of which is empty.
NAMED = [
    case
    for case in CASES
    if isinstance(case["type"], str) and "entry" not in case and case["row"].get("system_prompt") != ""
]


@pytest.mark.parametrize("case", NAMED, ids=lambda case: case["type"])
def test_the_row_of_every_format_is_recognized_or_one_must_choose(case: dict[str, Any]):
    name = case["type"].partition(":")[0]
    wanted = ALIKE.get(name, name)
    if wanted:
        assert detect_format([case["row"]])[0] == wanted
        return
    with pytest.raises(DataError, match="more than one format fits") as error:
        detect_format([case["row"]])
    assert f"`type: {name.partition('.')[0]}" in error.value.fix


def test_the_choice_names_each_candidate_and_the_columns():
    row = {"system_prompt": "a", "question": "b", "response": "c"}
    with pytest.raises(DataError) as error:
        detect_format([row])
    assert error.value.message == (
        "more than one format fits (columns: `system_prompt`, `question`, `response`)"
    )
    assert error.value.fix == "Write `type: alpaca_w_system.load_open_orca` or `type: orcamini`."


def test_a_format_that_needs_more_of_the_columns_is_taken():
    question = {"question": "a", "answer": "b"}
    assert detect_format([question])[0] == "alpaca_chat.load_qa"
    assert detect_format([{**question, "category": "c"}])[0] == "jeopardy"
    assert detect_format([{**question, "article": "c"}])[0] == "context_qa.load"
    with pytest.raises(DataError, match="more than one format fits"):
        detect_format([{**question, "article": "c", "category": "d"}])
    with pytest.raises(DataError, match="more than one") as error:
        detect_format([{"instruction": "a", "output": "b", "text": "a b"}])
    assert error.value.fix == "Write `type: completion` or `type: alpaca`."


def test_values_count_and_not_names_alone():
    with pytest.raises(DataError, match=r"no format fits \(columns: `text`\)"):
        detect_format([{"text": 3}])
    with pytest.raises(DataError, match="no format fits"):
        detect_format([{"messages": "a"}])
    with pytest.raises(DataError, match="no format fits"):
        detect_format([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": ["b"]}])
    assert detect_format([{"messages": [{"from": "human", "value": "a"}]}])[0] == "messages"
    assert detect_format([{"messages": [{"role": "user"}], "label": "spam"}])[0] == "messages"
    assert detect_format([{"instruction": "a", "output": "b", "text": None}])[0] == "alpaca"
    assert detect_format([{"text": "a"}, {"text": None}]) == ("completion", "the rows have `text`")


def test_the_reason_says_what_was_seen():
    turns = [{"from": "human", "value": "a"}]
    assert detect_format([{"conversations": turns}]) == (
        "sharegpt",
        "the rows have `conversations` with `from` and `value`",
    )
    assert (
        detect_format([{"instruction": "a", "output": "b"}])[1] == "the rows have `instruction` and `output`"
    )


@pytest.mark.parametrize(
    ("row", "meaning"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs of a better and a worse answer"),
        ({"messages": [{"role": "user", "content": "a"}], "label": False}, "conversations that are judged"),
        ({"prompt": "a", "completion": "b", "label": True}, "answers that are judged"),
        ({"messages": [{"role": "user", "content": "a"}], "images": ["a.png"]}, "rows with images"),
        ({"messages": [{"role": "user", "content": "a"}], "audios": ["a.mp3"]}, "rows with sound"),
        ({"text": "a", "videos": ["a.mp4"]}, "rows with videos"),
    ],
)
def test_rows_of_another_kind_are_refused_by_what_they_are(row: dict[str, Any], meaning: str):
    with pytest.raises(DataError, match=f"^these are {meaning}"):
        detect_format([row])


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        (
            {"talk": [{"role": "user", "content": "a"}]},
            "Write `type: chat_template` with `field_messages: talk`.",
        ),
        (
            {"talk": [{"from": "human", "value": "a"}]},
            "Write `type: chat_template` with `field_messages: talk`.",
        ),
        (
            {"prompt": "a", "completion": "b"},
            "Write `type: {field_instruction: prompt, field_output: completion",
        ),
        ({"body": "a"}, "Name one with `type:`. The format `completion` takes any column as `field`"),
        ({"text": None}, "Name one with `type:`."),
    ],
)
def test_where_nothing_fits_the_next_step_is_said(row: dict[str, Any], fix: str):
    with pytest.raises(DataError, match=r"^no format fits") as error:
        detect_format([row])
    assert error.value.fix.startswith(fix)


SHARED = {
    "alpaca_en_demo.json": "alpaca",
    "identity.json": "alpaca",
    "c4_demo.jsonl": "completion",
    "wiki_demo.txt": "completion",
    "glaive_toolcall_en_demo.json": "sharegpt",
    "reason_tool_use_demo_50.jsonl": "messages",
    "dpo_en_demo.json": "pairs of a better and a worse answer",
    "kto_en_demo.json": "conversations that are judged",
    "mllm_demo.json": "rows with images",
}


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("file", SHARED)
def test_every_real_file_is_told(file: str):
    entry = DatasetEntry.model_validate({"path": str(SHARED_DATA / file), "type": "auto"})
    if " " in SHARED[file]:
        with pytest.raises(DataError, match=f"{file}: `type: auto`: these are {SHARED[file]}"):
            choose_format(entry)
        return
    rows = first_rows(entry)
    assert 1 <= len(rows) <= NUM_ROWS
    assert detect_format(rows)[0] == SHARED[file]
    assert detect_format(list(load_rows(entry).rows))[0] == SHARED[file]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")
def test_all_real_files_are_listed():
    assert {path.name for path in SHARED_DATA.iterdir() if path.is_file()} - {"README.md"} == set(SHARED)


def test_a_data_set_is_prepared_as_by_the_format_that_is_taken(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(30)]
    entry = write_rows(tmp_path / "rows.jsonl", rows)
    chosen = prepare(tokenizer, tmp_path, datasets=[{**entry, "type": "auto"}])
    named = prepare(tokenizer, tmp_path, datasets=[{**entry, "type": "alpaca"}])
    assert (ids_of(chosen.train) == ids_of(named.train)).all()
    assert (labels_of(chosen.train) == labels_of(named.train)).all()
    said = capsys.readouterr().err
    line = f"{entry['path']}: `type: auto` takes `alpaca`, as the rows have `instruction` and `output`\n"
    assert said.count(line) == 1


def test_a_format_with_a_template_is_rendered_by_it(tokenizer: Any, tmp_path: Path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    entry = write_rows(tmp_path / "rows.jsonl", [{"conversations": turns}])
    prepared = prepare(tokenizer, tmp_path, datasets=[{**entry, "type": "auto"}])
    text = tokenizer.decode(ids_of(prepared.train))
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


def test_a_file_that_changes_is_looked_at_anew(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    entry = DatasetEntry.model_validate({**write_rows(path, [{"text": "a"}]), "type": "auto"})
    assert first_rows(entry) == ({"text": "a"},)
    path.write_text(json.dumps({"question": "a", "answer": "bb"}) + "\n")
    assert first_rows(entry) == ({"question": "a", "answer": "bb"},)


def test_a_file_that_is_not_there_is_said_as_for_any_format(tmp_path: Path):
    entry = DatasetEntry.model_validate({"path": str(tmp_path / "no.jsonl"), "type": "auto"})
    with pytest.raises(DataError, match="there is no such file or folder"):
        choose_format(entry)
