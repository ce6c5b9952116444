"""`type:` as the dotted path of a function: what it may return, and what is said where it cannot be used."""

from __future__ import annotations

import itertools
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import ids_of
from tests.unit.data.test_prepare import prepare, write_rows

from siredon.config.sections.data import DatasetEntry
from siredon.data.choose import choose_format
from siredon.data.types import Conversation, Format, Message, ReadOptions, RowError, Span, Text
from siredon.errors import DataError

_NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where Siredon is started, with rows in it."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"q": "Who?", "a": "Me."}, {"q": "When?", "a": "Now."}])
    return tmp_path


def write_module(folder: Path, code: str) -> str:
    """A module of a name of its own, as each is imported once in a process."""
    name = f"reader_{next(_NUMBERS)}"
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return name


def entry_of(kind: str, **keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": "rows.jsonl", "type": kind, **keys})


def build(folder: Path, body: str) -> tuple[Format, ReadOptions]:
    """The format of a function with this body."""
    entry = entry_of(f"{write_module(folder, f'def fn(row):{chr(10)}    {body}')}.fn")
    return choose_format(entry), ReadOptions(entry, False, "<s>", "</s>")


def read(folder: Path, body: str, row: dict[str, Any] | None = None) -> Any:
    part, options = build(folder, body)
    return part.read(row or {"q": "Who?", "a": "Me."}, options)


def test_a_prompt_and_its_completion(folder: Path):
    item = read(folder, 'return {"prompt": row["q"] + " ", "completion": row["a"]}')
    assert item == Text((Span("Who? ", False), Span("Me.", True)))


def test_a_text_is_learned_and_may_be_cut(folder: Path):
    assert read(folder, 'return {"text": row["q"] + row["a"]}') == Text((Span("Who?Me.", True),), split=True)


def test_segments_are_taken_as_they_are(folder: Path):
    part, options = build(folder, 'return {"segments": [{"label": True, "text": row["a"]}]}')
    assert part.read({"a": "x"}, options) == Text((Span("x", True),), add_bos=False, add_eos=False)
    assert part.ends is False


def test_messages_are_a_conversation(folder: Path):
    part, options = build(
        folder,
        'return {"messages": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}',
    )
    item = part.read({"q": "x", "a": "y"}, options)
    assert isinstance(item, Conversation)
    assert [(message.role, message.content, message.learn) for message in item.messages] == [
        ("user", "x", False),
        ("assistant", "y", True),
    ]
    assert part.uses_template
    assert isinstance(part.prompt("Why?"), Conversation)


def test_our_own_types_are_taken_as_they_are(folder: Path):
    text = Text((Span("a", True),), add_bos=False)
    assert (
        read(
            folder,
            "from siredon.data.types import Span, Text; return Text((Span('a', True),), add_bos=False)",
        )
        == text
    )
    talk = Conversation((Message({"role": "user", "content": "a"}, "user", "a", True),))
    body = (
        "from siredon.data.types import Conversation, Message; "
        "return Conversation((Message({'role': 'user', 'content': 'a'}, 'user', 'a', True),))"
    )
    assert read(folder, body) == talk


@pytest.mark.parametrize("name", ["read", "load"])
def test_a_module_may_be_named_alone(folder: Path, name: str):
    package = folder / f"package_{next(_NUMBERS)}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rows.py").write_text(f"def {name}(row):\n    return {{'text': row['q']}}\n")
    part = choose_format(entry_of(f"{package.name}.rows"))
    assert part.read({"q": "x"}, ReadOptions(entry_of("x.y"), False)) == Text((Span("x", True),), split=True)


def test_the_folder_is_searched_only_while_a_module_is_loaded(folder: Path):
    before = list(sys.path)
    build(folder, 'return {"text": row["q"]}')
    assert sys.path == before
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", r"`reader_\d+\.fn` returns nothing\. Write a function that takes a row"),
        ("return 3", "returns a value of the type int"),
        ('return {"prompt": "a"}', "returns a dict with `prompt`"),
        ("return {}", "returns a dict with nothing"),
        ('return {"text": None}', "column `text` holds NoneType, not text"),
        ('return {"prompt": "a", "completion": ""}', "column `completion` is empty"),
        ('return {"messages": []}', "no list of messages"),
        ('return {"segments": [{"text": "a"}]}', "segment 1 has no `label"),
        ('return {"text": row["nothing"]}', r"`reader_\d+\.fn` fails: KeyError: 'nothing'"),
        ('from siredon.data.types import RowError; raise RowError("is too old")', "^is too old$"),
    ],
)
def test_a_row_of_which_nothing_can_be_made_is_refused(folder: Path, body: str, reason: str):
    part, options = build(folder, body)
    with pytest.raises(RowError, match=reason):
        part.read({"q": "Who?"}, options)


def test_a_conversation_after_rows_that_are_none_is_refused(folder: Path):
    body = 'return {"messages": [{"role": "assistant", "content": "b"}]} if row["q"] == "talk" else {"text": "a"}'
    part, options = build(folder, body)
    with pytest.raises(RowError, match=r"is a conversation by `reader_.*`, while the first rows are none"):
        part.read({"q": "talk"}, options)


def test_the_first_row_that_can_be_read_tells_what_they_are(folder: Path):
    part, _ = build(
        folder,
        'return {"messages": [{"role": "assistant", "content": "b"}]} if row["q"] == "When?" else None',
    )
    assert part.uses_template


def test_a_function_may_change_its_row(folder: Path):
    write_rows(folder / "rows.jsonl", [{"q": [{"role": "assistant", "content": "b"}]}])
    name = write_module(folder, "def fn(row):\n    return {'messages': [row['q'].pop()]}\n")
    for _ in range(2):
        assert choose_format(entry_of(f"{name}.fn")).uses_template


@pytest.mark.parametrize(
    ("code", "path", "reason"),
    [
        ("", "no_such_module.fn", "there is no module `no_such_module`"),
        ("def other(row): ...", "{}.fn", "`{}` has no function `fn`"),
        ("def other(row): ...", "{}.inner.fn", "`{}` has no module `inner`"),
        ("import no_such_thing\ndef fn(row): ...", "{}.fn", "{} cannot be imported: ModuleNotFoundError"),
        ("1 / 0\ndef fn(row): ...", "{}.fn", "{} cannot be imported: ZeroDivisionError"),
        ("def fn(row:", "{}.fn", "`{}` cannot be read"),
        ("fn = 3", "{}.fn", "is no function, but of the type int"),
        ("if 0:\n    def fn(row): ...", "{}.fn", "{} has no `fn`"),
        ("def fn(tokenizer, cfg, ds_cfg=None): ...", "{}.fn", "is a loader for Axolotl"),
        ("def fn(tokenizer): ...", "{}.fn", "is a loader for Axolotl"),
        ("def fn(row, more): ...", "{}.fn", "must be given `row` and `more`, and gets a row alone"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_with_the_reason(
    folder: Path, code: str, path: str, reason: str
):
    name = write_module(folder, code)
    with pytest.raises(DataError) as error:
        choose_format(entry_of(path.format(name)))
    assert error.value.message.startswith("rows.jsonl: `")
    assert path.format(name) in error.value.message
    assert reason.format(name) in error.value.message


def test_further_parameters_with_defaults_are_no_loader(folder: Path):
    name = write_module(folder, "def fn(row, upper=False):\n    return {'text': row['q']}\n")
    assert choose_format(entry_of(f"{name}.fn")).read({"q": "a"}, ReadOptions(entry_of(f"{name}.fn"), False))


def test_rows_are_prepared_and_bad_ones_are_named(folder: Path, tokenizer: Any):
    name = write_module(folder, "def fn(row):\n    return {'prompt': row['q'], 'completion': row['a']}\n")
    datasets = [{"path": "rows.jsonl", "type": f"{name}.fn"}]
    table = prepare(tokenizer, folder, datasets=datasets, shuffle_merged_datasets=False).train.table
    assert tokenizer.decode(table.input_ids) == "Who?Me.<|im_end|>When?Now.<|im_end|>"
    write_rows(folder / "rows.jsonl", [{"q": "Who?", "a": "Me."}, {"q": "When?", "a": None}])
    with pytest.raises(DataError, match=r"rows.jsonl: row 2 column `completion` holds NoneType, not text"):
        prepare(tokenizer, folder, datasets=datasets)


def test_a_function_that_changes_prepares_its_rows_anew(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    name = write_module(folder, "def fn(row):\n    return {'text': row['q']}\n")
    datasets = [{"path": "rows.jsonl", "type": f"{name}.fn"}]
    first = prepare(tokenizer, folder, datasets=datasets)
    assert "prepared before" in prepare(tokenizer, folder, datasets=datasets).lines[0]
    (folder / f"{name}.py").write_text("def fn(row):\n    return {'text': row['a']}\n# changed\n")
    monkeypatch.delitem(sys.modules, name)
    second = prepare(tokenizer, folder, datasets=datasets)
    assert "prepared before" not in second.lines[0]
    assert first.fingerprint != second.fingerprint
    assert "Me." in tokenizer.decode(ids_of(second.train))
