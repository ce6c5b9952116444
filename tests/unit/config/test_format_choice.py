"""SD0152: which `type` is a format, and what is said of one that is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.config.texts import MODEL, accept, check, find_one

from siredon.config.diagnostics import Diagnostic
from siredon.config.format_choice import all_types
from siredon.config.shelves import FORMATS, split_type


def text(kind: str) -> str:
    return f"{MODEL}datasets:\n  - path: rows.jsonl\n    type: {kind}\n"


def problem_of(kind: str) -> Diagnostic:
    problem = find_one("", text(kind))
    assert (problem.code, problem.key, problem.severity) == ("SD0152", "datasets.0.type", "error")
    assert (problem.place.line, problem.place.column) == (5, 11)
    return problem


@pytest.mark.parametrize(
    "kind", [name for name in all_types() if name not in ("user_defined", "stepwise_supervised")]
)
def test_every_format_and_variant_is_accepted(kind: str):
    assert accept("", text(f"'{kind}'")).data.datasets[0].type == kind


def test_either_mark_stands_before_a_variant():
    for kind in ("alpaca.chat", "alpaca_chat:load_qa", "messages.chat"):
        accept("", text(kind))


@pytest.mark.parametrize(
    ("kind", "near"),
    [
        ("alpace", "alpaca"),
        ("alpaca:chatt", "alpaca:chat"),
        ("alpaca:chatnl", "alpaca:chatml"),
        ("alpacca:chat", "alpaca:chat"),
        ("alpaca_chat.load_concice", "alpaca_chat.load_concise"),
        ("alpaca_w_sytem.load_open_orca", "alpaca_w_system.load_open_orca"),
        ("context_qa.load_v3", "context_qa.load_v2"),
        ("completion.load", "completion"),
        ("messages.chatt", "messages.chat"),
    ],
)
def test_a_slip_is_corrected(kind: str, near: str):
    problem = problem_of(kind)
    assert problem.fix.startswith(f"Did you mean `{near}`?")


def test_a_clear_slip_can_be_written_into_the_file():
    for kind, new in (("alpace", "alpaca"), ("alpaca_w_sytem.load_chat", "alpaca_w_system.load_chat")):
        edit = problem_of(kind).edit
        assert edit is not None
        assert (edit.old, edit.new) == (kind, new)
    assert problem_of("qqqq").edit is None


@pytest.mark.parametrize(
    "kind",
    [
        "orpo.chat_template",
        "ebft_pretrain",
    ],
)
def test_formats_that_are_not_built_are_known(kind: str):
    problem = problem_of(kind)
    assert problem.message == f"`type: {kind}` is known but not built yet"
    assert problem.fix.startswith("Built: `")
    assert problem.edit is None


@pytest.mark.parametrize(
    "kind", ["zephyr.nectar", "chatml.intel", "llama3.argilla", "passthrough", "chat_template.intel"]
)
def test_formats_of_pairs_are_known(kind: str):
    problem = problem_of(kind)
    assert problem.message == f"`type: {kind}` reads two answers to a prompt, one of which is better"
    assert problem.fix.startswith("Add `rl: dpo`")


def test_nothing_like_it_lists_what_is_built():
    problem = problem_of("qqqq")
    assert problem.fix == f"Built: {', '.join(f'`{name}`' for name in FORMATS.names())}."


def test_the_word_for_a_mapping_is_not_enough():
    for kind in ("user_defined", "user_defined.default"):
        assert problem_of(kind).message == f"`type: {kind}` does not say what the prompt is"


# Functions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "rows.py").write_text(
        "raise RuntimeError('imported')\n"
        "import json\n"
        "def question(row): ...\n"
        "def load(tokenizer, cfg): ...\n"
        "def load_qa(tokenizer, cfg, ds_cfg=None): ...\n"
        "def pair(row, other): ...\n"
        "class Reader: ...\n"
        "try:\n    from json import loads as made\nexcept ImportError:\n    made = None\n"
        "either: object = question\n"
    )
    (package / "good.py").write_text("def read(row, strict=True): ...\n")
    (package / "stars.py").write_text("from json import *\n")
    (package / "broken.py").write_text("def read(row:\n")
    (tmp_path / "no_package").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    [
        "my_package.rows.question",
        "my_package.rows.Reader",
        "my_package.rows.made",
        "my_package.rows.either",
        "my_package.good",
        "my_package.good.read",
        "my_package.stars",
        "my_package.stars.anything",
        "math.sqrt",
    ],
)
def test_a_function_is_accepted_without_being_run(folder: Path, kind: str):
    accept("", text(kind))


@pytest.mark.parametrize(
    ("kind", "message", "fix"),
    [
        (
            "my_package.rows.questoin",
            "`my_package.rows` has no function `questoin`",
            "Did you mean `question`?",
        ),
        ("my_package.row.question", "`my_package` has no module `row`", "Did you mean `rows`?"),
        ("my_package.rows.inner.question", "`my_package.rows` has no module `inner`", "Check the path."),
        (
            "my_pakage.rows.question",
            "there is no module `my_pakage`",
            "Put my_pakage.py where Siredon is started",
        ),
        ("my_package.broken.read", "`my_package.broken` cannot be read", "Mend the module."),
        ("my_package.2.x", "`my_package.2.x` is no dotted path", "Write `package.module.function`."),
        ("no_package.x", "`no_package` is a folder, no module", "Name a module in it."),
        ("'a..b'", "`a..b` is no dotted path", "Write `package.module.function`."),
        ("__main__.x", "there is no module `__main__`", "Put __main__.py"),
    ],
)
def test_a_path_that_leads_nowhere_is_said_where_it_breaks_off(
    folder: Path, kind: str, message: str, fix: str
):
    problem = problem_of(kind)
    shown = kind.strip("'")
    assert problem.message.startswith(f"`type: {shown}` is neither a format nor a function: ")
    assert message in problem.message
    assert problem.fix.startswith(fix)
    assert "Write a function that takes a row (a dict) and returns" in problem.fix


@pytest.mark.parametrize(
    "kind", ["my_package.rows", "my_package.rows.load_qa", "axolotl.integrations.kd.chat_template"]
)
def test_loaders_for_axolotl_are_told(folder: Path, kind: str):
    problem = problem_of(kind)
    assert "is a loader for Axolotl: it makes tokens and labels" in problem.message
    assert problem.fix.startswith("Write a function that takes a row")


def test_a_function_that_needs_more_than_a_row_is_refused(folder: Path):
    message = "`my_package.rows.pair` must be given `row` and `other`, and gets a row alone"
    assert problem_of("my_package.rows.pair").message == message


def test_a_slip_of_a_format_is_told_from_a_function():
    problem = problem_of("alpaca_chatt.load_qa")
    assert problem.fix.startswith("Did you mean `alpaca_chat.load_qa`? Write a function")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alpaca", ("alpaca", "", "")),
        ("alpaca:chat", ("alpaca", ":", "chat")),
        ("a.b:c", ("a", ".", "b:c")),
        (".a", ("", ".", "a")),
        ("", ("", "", "")),
        ("a:\n", ("a", ":", "\n")),
    ],
)
def test_a_type_is_split_at_its_first_mark(name: str, parts: tuple[str, str, str]):
    assert split_type(name) == parts


@pytest.mark.parametrize(
    "kind", ["''", ".", "':'", "'a:'", "'a.'", "'.a'", "'ä.ö'", f"{'x' * 5000}.y", "'alpaca:'"]
)
def test_odd_names_are_problems_and_no_tracebacks(kind: str):
    assert [problem.code for problem in check("", text(kind)).diagnostics] == ["SD0152"]


def test_neither_torch_nor_transformers_is_imported_for_it():
    code = (
        "import sys; from siredon.config.format_choice import all_types; assert len(all_types()) > 50; "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_chain_of_branches_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    branches = "".join(f"elif x == {number}:\n    y = {number}\n" for number in range(150))
    (tmp_path / "branches.py").write_text(f"x = 1\nif x:\n    y = 0\n{branches}else:\n    def fn(row): ...\n")
    accept("", text("branches.fn"))
