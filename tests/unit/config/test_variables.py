"""Environment variables in values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import DATASETS, MINIMAL, MODEL

from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.document import Document, parse_document, parse_value
from siredon.config.load import Checked, check_config, check_document


def parse(text: str, environment: Mapping[str, str] | None = None) -> Document:
    return parse_document("config.yml", text, {} if environment is None else environment)


def value_of(text: str, **environment: str) -> Any:
    document = parse(f"key: {text}\n", environment)
    assert document.problems == ()
    return document.values["key"]


def problem_of(text: str, **environment: str) -> Diagnostic:
    (problem,) = parse(text, environment).problems
    return problem


def check(text: str, **environment: str) -> Checked:
    return check_document(parse(text, environment))


# What a value comes to


def test_a_variable_is_put_in_its_place():
    assert value_of("${NAME}", NAME="word") == "word"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("8", 8),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("1e-4", 1e-4),
        ("0.5", 0.5),
        (".inf", math.inf),
        ("true", True),
        ("Yes", True),
        ("off", False),
        ("null", None),
        ("~", None),
        ("word", "word"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("8 bits", "8 bits"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_without_quotes_it_is_read_as_if_it_stood_there(value: str, read: Any):
    got = value_of("${NAME}", NAME=value)
    assert (got, type(got)) == (read, type(read))


@pytest.mark.parametrize("value", ["8", "1e-4", "true", "null", "~", ""])
@pytest.mark.parametrize("text", ["'${NAME}'", '"${NAME}"', "|-\n  ${NAME}", ">-\n  ${NAME}"])
def test_with_quotes_it_stays_text(text: str, value: str):
    assert value_of(text, NAME=value) == value


@pytest.mark.parametrize(
    "value",
    [
        "[1, 2]",
        "{a: 1}",
        "a: 1",
        "- a",
        "'quoted'",
        "a # no comment",
        "*alias",
        "&anchor x",
        "!!int 5",
        "a\nb: 1",
        "${OTHER}",
        "$${OTHER}",
        "\\1",
        "ä漢",
    ],
)
def test_it_is_one_value_and_no_yaml(value: str):
    assert value_of("${NAME}", NAME=value, OTHER="x") == value


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
def test_a_line_end_after_a_number_is_no_traceback(line_end: str):
    assert value_of("${NAME}", NAME=f"word{line_end}") == f"word{line_end}"
    assert isinstance(value_of("${NAME}", NAME=f"5{line_end}"), (int, str))
    assert isinstance(value_of("${NAME}", NAME=f"true{line_end}"), (bool, str))


def test_several_stand_in_one_value_with_text_around_them():
    text = "/data/${USER_NAME}/${RUN}-${RUN}.jsonl"
    assert value_of(text, USER_NAME="ann", RUN="7") == "/data/ann/7-7.jsonl"


def test_parts_are_read_as_one_value():
    assert value_of("${A}e${B}", A="1", B="-4") == 1e-4
    assert value_of("${A}0", A="1") == 10
    assert value_of("tr${A}", A="ue") is True


def test_it_works_in_lists_mappings_and_merges():
    document = parse("a: &x\n  b: '${N}'\n  c: ${N}\nd:\n  - ${N}\n  - <<: *x\ne: ['${N}']\n", {"N": "5"})
    assert document.values == {"a": {"b": "5", "c": 5}, "d": [5, {"b": "5", "c": 5}], "e": ["5"]}


def test_inside_brackets_it_needs_quotes():
    # In YAML, the brace opens a mapping there
    problem = problem_of("a: [${N}]\n", N="x")
    assert (problem.code, problem.place.line) == ("SD0001", 1)
    assert "quotes" in problem.fix
    assert value_of("['${N}', \"${N}\"]", N="x") == ["x", "x"]


def test_a_key_is_left_as_it_is():
    document = parse("${NAME}: 1\n'${OTHER}': 2\n")
    assert document.problems == ()
    assert document.values == {"${NAME}": 1, "${OTHER}": 2}


@pytest.mark.parametrize(
    "text", ["$NAME", "{NAME}", "$(NAME)", "${}", "${1A}", "${A-B}", "${A:B}", "${ A }", "$", "${A"]
)
def test_what_only_looks_like_a_variable_is_text(text: str):
    assert value_of(f"'{text}'", NAME="x", A="x", B="x") == text


# Defaults


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME:-word}", "word"),
        ("${NAME:-8}", 8),
        ("'${NAME:-8}'", "8"),
        ("${NAME:-}", None),
        ("'${NAME:-}'", ""),
        ("a${NAME:-}b", "ab"),
        ("${NAME:-a-b:-c}", "a-b:-c"),
        ("${NAME:-a b}", "a b"),
        ("${NAME:-$x}", "$x"),
        ("${NAME:-/a/b}/${NAME:-c}", "/a/b/c"),
        ("${NAME:--1}", -1),
    ],
)
def test_the_default_stands_in_for_a_variable_that_is_not_set(text: str, value: Any):
    assert value_of(text) == value


def test_the_default_stands_in_for_an_empty_variable_too():
    assert value_of("${NAME:-8}", NAME="") == 8


def test_a_variable_that_is_set_wins_over_the_default():
    assert value_of("${NAME:-8}", NAME="9") == 9


def test_an_empty_variable_without_a_default_is_nothing():
    assert value_of("${NAME}", NAME="") is None
    assert value_of("'${NAME}'", NAME="") == ""


# Not meant so


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$${NAME}", "${NAME}"),
        ("'$${NAME}'", "${NAME}"),
        ("$${NAME:-x}", "${NAME:-x}"),
        ("$$${NAME}", "$${NAME}"),
        ("$${NAME}-${NAME}", "${NAME}-set"),
        ("$$", "$$"),
    ],
)
def test_two_dollars_keep_the_word(text: str, value: str):
    assert value_of(text, NAME="set") == value


def test_two_dollars_need_no_variable():
    assert value_of("$${MISSING}") == "${MISSING}"


# Not set


def test_a_variable_that_is_not_set_is_an_error_at_its_value():
    problem = problem_of("a: 1\nbase_model: /models/${NO_SUCH}\n")
    assert (problem.code, problem.severity, problem.key) == ("SD0013", "error", "base_model")
    assert (problem.path, problem.place) == ("config.yml", Place(2, 13))
    assert "`NO_SUCH`" in problem.message
    assert "${NO_SUCH:-value}" in problem.fix
    assert "$${" in problem.fix


def test_an_error_inside_a_list_names_its_whole_path():
    problem = problem_of("datasets:\n  - path: '${NO_SUCH}'\n")
    assert (problem.key, problem.place) == ("datasets.0.path", Place(2, 11))


def test_every_variable_that_is_not_set_is_reported():
    problems = parse("a: ${A}/${B}/${C}\nb: ${A}\n", {"B": "x"}).problems
    assert [(problem.place.line, problem.message.split("`")[1]) for problem in problems] == [
        (1, "A"),
        (1, "C"),
        (2, "A"),
    ]


def test_it_is_the_only_problem_of_a_required_key():
    checked = check("base_model: ${NO_SUCH}\nlearning_rate: ${NO_SUCH}\n" + DATASETS)
    assert checked.config is None
    assert [(problem.code, problem.key) for problem in checked.diagnostics] == [
        ("SD0013", "base_model"),
        ("SD0013", "learning_rate"),
    ]


def test_a_name_is_compared_exactly():
    assert problem_of("a: ${name}\n", NAME="x").code == "SD0013"


# In a configuration


def test_the_kind_of_the_value_is_checked_as_if_it_stood_there():
    text = MODEL.replace("1e-4", "${RATE}") + DATASETS + "seed: ${SEED:-1}\n"
    config = check(text, RATE="3e-5").config
    assert config is not None
    assert (config.optimizer.learning_rate, config.batch.seed) == (3e-5, 1)
    (problem,) = check(text, RATE="3e-5", SEED="often").diagnostics
    assert (problem.code, problem.place) == ("SD0005", Place(6, 7))


def test_a_text_of_digits_needs_quotes():
    (problem,) = check(MINIMAL + "model_revision: ${REV}\n", REV="123").diagnostics
    assert problem.code == "SD0005"
    config = check(MINIMAL + "model_revision: '${REV}'\n", REV="123").config
    assert config is not None
    assert config.model.revision == "123"


def test_the_process_gives_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.yml"
    path.write_text(MINIMAL + "output_dir: ${SIREDON_TEST_FOLDER}/out\n")
    monkeypatch.delenv("SIREDON_TEST_FOLDER", raising=False)
    assert [problem.code for problem in check_config(str(path)).diagnostics] == ["SD0013"]
    monkeypatch.setenv("SIREDON_TEST_FOLDER", "/somewhere")
    config = check_config(str(path)).config
    assert config is not None
    assert config.checkpoint.output_dir == "/somewhere/out"


def test_a_variable_of_bytes_that_are_no_text_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "config.yml"
    path.write_text(MINIMAL + "output_dir: ${SIREDON_TEST_FOLDER}\nseed: ${SIREDON_TEST_FOLDER}\n")
    monkeypatch.setenv("SIREDON_TEST_FOLDER", "\udcff")
    checked = check_config(str(path))
    assert checked.config is None
    assert {problem.severity for problem in checked.diagnostics} == {"error"}


def test_the_names_of_the_variables_are_kept_with_the_value():
    document = parse("a: ${A}-${B:-x}-${A}\nb: [1, '${B}']\nd: 1\n", {"A": "1", "B": "2"})
    assert document.variables == {("a",): ("A", "B"), ("b", 1): ("B",)}


def test_a_word_of_the_command_line_is_left_to_the_shell():
    assert parse_value("${HOME}") == "${HOME}"
