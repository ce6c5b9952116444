"""`type:` as a mapping: a prompt of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.config.texts import MODEL, accept, find

from siredon.config.sections.data import DatasetEntry
from siredon.data.choose import choose_format
from siredon.data.types import Format, ReadOptions, RowError, Span
from siredon.errors import DataError

ROW = {"q": "When?", "facts": "Built in 1932.", "a": "1932", "who": "You are brief."}
FORM = {"field_instruction": "q", "field_output": "a"}


def build(**form: Any) -> tuple[Format, ReadOptions]:
    entry = DatasetEntry.model_validate({"path": "x", "type": {**FORM, **form}})
    return choose_format(entry), ReadOptions(entry, False)


def prompt_of(row: dict[str, Any], **form: Any) -> str:
    part, options = build(**form)
    item: Any = part.read(row, options)
    assert item.spans[1] == Span(row["a"], True)
    return str(item.spans[0].text)


def test_every_key_has_its_effect():
    form = {
        "field_input": "facts",
        "field_system": "who",
        "system_format": "<{system}>",
        "format": "{input} {{{instruction}}}: ",
        "no_input_format": "no facts, {instruction}: ",
        "system_prompt": "Be kind.",
    }
    assert prompt_of(ROW, **form) == "<You are brief.>Built in 1932. {When?}: "
    assert prompt_of({**ROW, "facts": ""}, **form) == "<You are brief.>no facts, When?: "
    assert prompt_of({**ROW, "facts": None, "who": None}, **form) == "<Be kind.>no facts, When?: "
    assert prompt_of({**ROW, "who": ""}, **form) == "Built in 1932. {When?}: "


def test_the_defaults_are_the_columns_of_alpaca_with_a_system():
    entry = DatasetEntry.model_validate({"path": "x", "type": {}})
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Count. "}
    for given, prompt in (
        (row, "Count. Add. 1 2 "),
        ({**row, "input": None, "system": None}, "Add. "),
        ({"instruction": "Add.", "output": "3"}, "Add. "),
    ):
        item: Any = choose_format(entry).read(given, ReadOptions(entry, True))
        assert item.spans == (Span(prompt, True), Span("3", True))


def test_a_format_holds_for_rows_without_input_too():
    assert prompt_of(ROW, format="[INST] {instruction} [/INST]") == "[INST] When? [/INST]"
    assert prompt_of({**ROW, "input": "x"}, format="[INST] {instruction} [/INST]") == "[INST] When? [/INST]"
    assert prompt_of(ROW, format="{instruction} ({input})\n") == "When? ()\n"


def test_a_column_that_is_named_must_be_there():
    for key in ("field_input", "field_system"):
        part, options = build(**{key: "nowhere"})
        with pytest.raises(RowError, match="no column `nowhere`"):
            part.read(ROW, options)
    for column, value, reason in (("q", None, "NoneType"), ("a", "", "empty"), ("a", 3, "int")):
        part, options = build()
        with pytest.raises(RowError, match=f"column `{column}` .*{reason}"):
            part.read({**ROW, column: value}, options)


def test_it_is_asked_as_a_row_without_input_is():
    part, _ = build(
        system_prompt="Be kind.\n",
        format="Q: {instruction} {input}\nA: ",
        no_input_format="Q: {instruction}\nA: ",
    )
    item: Any = part.prompt("Why?")
    assert item.spans == (Span("Be kind.\nQ: Why?\nA: ", False),)
    assert item.add_eos is False


def test_the_word_alone_does_not_say_what_the_prompt_is():
    entry = DatasetEntry.model_validate({"path": "x", "type": "user_defined"})
    with pytest.raises(DataError, match="does not say what the prompt is"):
        choose_format(entry)


# In a file

START = MODEL + "datasets:\n  - path: rows.jsonl\n    type:"


def test_a_file_holds_it_as_it_is_written():
    config = accept(
        "\n      field_instruction: q\n      field_output: a\n      format: |-\n        Q: {instruction}\n",
        START,
    )
    item: Any = choose_format(config.data.datasets[0]).prompt("Why?")
    assert item.spans[0].text == "Q: Why?"


@pytest.mark.parametrize(
    ("added", "code", "key"),
    [
        (" {field_instuction: q}", "SD0003", "field_instuction"),
        (" {field_instruction: 3}", "SD0005", "field_instruction"),
        (" {format: '{output}'}", "SD0005", "format"),
        (" {format: '{instruction!r}'}", "SD0005", "format"),
        (" {format: '{instruction:>9}'}", "SD0005", "format"),
        (" {format: '{instruction.x}'}", "SD0005", "format"),
        (" {format: '{}'}", "SD0005", "format"),
        (" {format: '{'}", "SD0005", "format"),
        (" {no_input_format: '{input}'}", "SD0005", "no_input_format"),
        (" {system_format: '{instruction}'}", "SD0005", "system_format"),
        (" {field_chosen: good}", "SD0638", "field_chosen"),
        (" {field_completion: good}", "SD0674", "field_completion"),
        (" {field_input: facts, format: '{instruction}'}", "SD0152", "field_input"),
        (" {field_input: facts, format: '{{input}}'}", "SD0152", "field_input"),
    ],
)
def test_what_is_wrong_in_it_is_blamed_where_it_stands(added: str, code: str, key: str):
    assert find(f"{added}\n", START) == [(code, f"datasets.0.type.{key}")]


@pytest.mark.parametrize("value", ["5", "[a]", "true"])
def test_anything_else_is_no_type(value: str):
    assert find(f" {value}\n", START) == [("SD0005", "datasets.0.type")]
