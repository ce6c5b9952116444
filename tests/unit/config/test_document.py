from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.config.texts import MINIMAL, read

from siredon.config import document as documents
from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.document import MAX_BYTES, MAX_DEPTH, Document, parse_document, read_document
from siredon.config.load import check_config, check_document


def broken(text: str) -> Diagnostic:
    """The one problem of a text that cannot be used."""
    document = parse_document("config.yml", text)
    assert document.values == {}
    (problem,) = document.problems
    assert problem.severity == "error"
    assert problem.fix
    return problem


def value_of(text: str) -> Any:
    return read(f"key: {text}\n").values["key"]


# Places


def test_every_key_and_value_has_the_place_where_it_stands():
    document = read("a: 1\nb:\n  - c: x\n    d: [y, z]\n")
    assert document.keys == {
        ("a",): Place(1, 1),
        ("b",): Place(2, 1),
        ("b", 0): Place(3, 5),
        ("b", 0, "c"): Place(3, 5),
        ("b", 0, "d"): Place(4, 5),
        ("b", 0, "d", 0): Place(4, 9),
        ("b", 0, "d", 1): Place(4, 12),
    }
    assert document.places[("a",)] == Place(1, 4)
    assert document.places[("b", 0, "d")] == Place(4, 8)
    assert document.places[("b", 0, "d", 1)] == Place(4, 12)


def test_what_is_not_in_the_file_has_the_place_of_what_encloses_it():
    document = read("b:\n  - c: x\n")
    assert document.key_place(("b", 0, "missing", 3)) == Place(2, 5)
    assert document.value_place(("b", 7)) == Place(1, 1)
    assert document.key_place(("missing",)) == Place(1, 1)


def test_places_count_characters_and_not_bytes():
    assert read("{ä: 1, 漢字: 2}\n").keys[("漢字",)] == Place(1, 8)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path):
    path = tmp_path / "config.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    document = read_document(str(path))
    assert document.text.startswith("a: 1")
    assert document.values == {"a": 1, "b": "x"}
    assert document.keys == {("a",): Place(1, 1), ("b",): Place(2, 1)}


# Scalars


@pytest.mark.parametrize("word", ["yes", "Yes", "on", "true", "TRUE"])
def test_yes_is_true(word: str):
    assert value_of(word) is True


@pytest.mark.parametrize("word", ["no", "No", "off", "false", "FALSE"])
def test_no_is_false(word: str):
    assert value_of(word) is False


@pytest.mark.parametrize("word", ["", "~", "null", "Null"])
def test_an_empty_value_is_null(word: str):
    assert value_of(word) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E+3", 2000.0),
        ("1.5e4", 15000.0),
        ("-3.e-2", -0.03),
        ("1_0e-1", 1.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1_000.5", 1000.5),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_a_number_with_an_exponent_or_a_point_is_a_float(text: str, value: float):
    got = value_of(text)
    assert got == value
    assert type(got) is float


def test_not_a_number_is_one():
    assert math.isnan(value_of(".nan"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-7", -7),
        ("+7", 7),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b101", 5),
        ("010", 10),
        ("0_10", 10),
    ],
)
def test_a_whole_number_is_an_int(text: str, value: int):
    got = value_of(text)
    assert got == value
    assert type(got) is int


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-31",
        "2024-01-31 10:00:00",
        "1:30",
        "1:30.5",
        "190:20:30",
        "1.2.3",
        "1e",
        "e5",
        "=",
        "<<",
        "0b_",
    ],
)
def test_dates_times_and_what_only_looks_like_a_number_are_text(text: str):
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["'1e-4'", '"1e-4"', "'yes'", "'42'", "'null'"])
def test_quoted_words_are_text(text: str):
    assert value_of(text) == text.strip("'\"")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!int abc", "abc"),
        ("!!float abc", "abc"),
        ("!!bool maybe", "maybe"),
        ("!own:int abc", "abc"),
        ("!!python/name:os.system x", "x"),
        ("!!timestamp nonsense", "nonsense"),
    ],
)
def test_a_tag_that_does_not_fit_leaves_text(text: str, value: str):
    assert value_of(text) == value


def test_a_number_too_long_for_python_is_text():
    assert value_of("9" * 5000) == "9" * 5000


def test_keys_are_text_as_written():
    assert read("yes: 1\n1: 2\n1e-4: 3\nnull: 4\n").values == {"yes": 1, "1": 2, "1e-4": 3, "null": 4}


def test_the_reader_without_libyaml_reads_the_same(monkeypatch: pytest.MonkeyPatch):
    text = "a: 1e-4\nb: &x {c: 1:30, d: yes}\ne:\n  <<: *x\n  f: [0x10, '1e-4', 2024-01-31]\n"
    fast = read(text)
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)
    slow = read(text)
    assert (slow.values, slow.keys, slow.places) == (fast.values, fast.keys, fast.places)


# Duplicates


def test_a_key_that_stands_twice_is_reported_with_both_lines():
    document = parse_document("config.yml", "seed: 1\nother: 2\nseed: 3\n")
    (problem,) = document.problems
    assert (problem.code, problem.key, problem.place) == ("SD0002", "seed", Place(3, 1))
    assert "first on line 1" in problem.message
    assert document.values == {"seed": 1, "other": 2}


def test_a_nested_key_that_stands_twice_is_named_with_its_whole_path():
    document = parse_document("config.yml", "datasets:\n  - path: a\n    path: b\n  - path: c\n")
    assert [(problem.key, problem.place) for problem in document.problems] == [
        ("datasets.0.path", Place(3, 5))
    ]


def test_every_duplicate_is_reported():
    document = parse_document("config.yml", "a: 1\na: 2\na: 3\nb: {c: 1, c: 2}\n")
    assert [(problem.key, problem.place.line) for problem in document.problems] == [
        ("a", 2),
        ("a", 3),
        ("b.c", 4),
    ]


# Anchors and merges


def test_an_alias_repeats_the_value_and_keeps_the_place_of_the_anchor():
    document = read("a: &x [1, 2]\nb: *x\n")
    assert document.values == {"a": [1, 2], "b": [1, 2]}
    assert document.keys[("b",)] == Place(2, 1)
    assert document.places[("b", 1)] == Place(1, 11)


def test_a_merge_brings_in_keys_and_own_keys_win():
    values = read("a: &a {x: 1, y: 1}\nb:\n  y: 2\n  <<: *a\n  z: 2\n").values
    assert values["b"] == {"x": 1, "y": 2, "z": 2}


def test_of_several_merges_the_first_wins():
    assert read("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc:\n  <<: [*a, *b]\n").values["c"] == {"x": 1, "y": 2}


def test_of_nested_merges_the_nearest_wins():
    assert read("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}\n").values["c"] == {"x": 2, "y": 1}


def test_merges_read_as_pyyaml_reads_them():
    text = (
        "a: &a {p: 1, q: 1, r: 1}\nb: &b {<<: *a, q: 2, s: 2}\nc: &c {r: 3, s: 3}\n"
        "d:\n  <<: [*b, *c]\n  p: 4\ne:\n  <<: [*c, *b]\nf: {<<: {<<: *c, r: 5}, s: 6}\n"
    )
    assert read(text).values == yaml.safe_load(text)


@pytest.mark.parametrize("merged", ["word", "[1, 2]", "[*a, word]"])
def test_a_merge_of_something_that_is_no_mapping_is_reported(merged: str):
    document = parse_document("config.yml", f"a: &a {{x: 1}}\nb:\n  <<: {merged}\n")
    assert {problem.code for problem in document.problems} == {"SD0001"}
    assert all("<<" in problem.message and problem.place.line == 3 for problem in document.problems)
    assert document.problems


# Hostile and broken files: a problem, never a traceback


def lists_of_aliases(levels: int) -> str:
    """9 ** levels values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges_of_merges(levels: int) -> str:
    """9 ** levels merges in a few lines, with a single key."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", [lists_of_aliases(30), merges_of_merges(30)], ids=["aliases", "merges"])
def test_aliases_that_expand_without_bound_are_refused(text: str):
    problem = broken(text)
    assert problem.code == "SD0001"
    assert "over 30,000 values" in problem.message


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a\n  b: *a\n", "a: &a\n  <<: *a\n", "&a x: *a\n"])
def test_an_alias_inside_its_own_anchor_is_no_traceback(text: str):
    problems = check_document(parse_document("config.yml", text)).diagnostics
    assert problems
    assert {problem.severity for problem in problems} == {"error"}


def test_a_long_chain_of_aliases_is_too_deep():
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))
    assert "levels deep" in broken(chain).message


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "a: " + "[" * 5000 + "]" * 5000, "a: " + "{b: " * 5000, "- " * 200_000, "? " * 5000],
    ids=["open", "lists", "mappings", "dashes", "questions"],
)
def test_deep_nesting_is_refused(text: str):
    problem = broken(text)
    assert problem.code == "SD0001"


def test_nesting_up_to_the_limit_is_read():
    inner = MAX_DEPTH - 1
    assert read(f"a: {'[' * inner}{']' * inner}").values["a"]
    assert "levels deep" in broken(f"a: {'[' * (inner + 1)}{']' * (inner + 1)}").message


def test_a_tab_as_indentation_is_reported_on_its_line_with_the_fix():
    problem = broken("a:\n\tb: 1\n")
    assert (problem.code, problem.place.line) == ("SD0001", 2)
    assert "spaces" in problem.fix


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 'open\n", 1),
        ("a: 1\n b: 2\n", 2),
        ("a: b: c\n", 1),
        ("a: *nothing\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: @x\n", 1),
        ("%YAML 9.9\n---\na: 1\n", 1),
    ],
)
def test_bad_yaml_is_reported_where_it_breaks(text: str, line: int):
    problem = broken(text)
    assert (problem.code, problem.place.line) == ("SD0001", line)
    assert "\n" not in problem.message


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "--- \n...\n"])
def test_an_empty_file_is_reported(text: str):
    assert broken(text).message == "the file is empty"


@pytest.mark.parametrize("text", ["just a word\n", "- a\n- b\n", "42\n", "!!set [a]\n"])
def test_a_file_that_is_no_mapping_is_reported(text: str):
    assert "no mapping" in broken(text).message


def test_a_key_that_is_no_word_is_reported():
    document = parse_document("config.yml", "? [a, b]\n: 1\n")
    assert [problem.message for problem in document.problems] == ["a key must be a plain word"]


@pytest.mark.parametrize("char", ["\x00", "\x07", "\x1b", "\x7f"])
def test_control_characters_are_reported(char: str):
    assert "control characters" in broken(f"a: {char}\n").message


def read_bytes(folder: Path, raw: bytes) -> Document:
    path = folder / "config.yml"
    path.write_bytes(raw)
    return read_document(str(path))


@pytest.mark.parametrize(
    "raw",
    [b"\x89PNG\r\n\x1a\n\x00\xff", bytes(range(256)) * 4, "a: ä\n".encode("latin-1"), b"a: \xed\xa0\x80"],
)
def test_a_binary_file_is_reported(tmp_path: Path, raw: bytes):
    (problem,) = read_bytes(tmp_path, raw).problems
    assert problem.code == "SD0001"
    assert "UTF-8" in problem.message


def test_a_file_of_two_megabytes_is_refused_unread(tmp_path: Path):
    (problem,) = read_bytes(tmp_path, b"a: 1\n" * 400_000).problems
    assert problem.code == "SD0001"
    assert "1,000,000 bytes" in problem.message


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero on this system")
def test_a_file_without_an_end_is_refused():
    (problem,) = read_document("/dev/zero").problems
    assert "1,000,000 bytes" in problem.message


def test_a_file_of_the_largest_size_is_read(tmp_path: Path):
    raw = b"a: 1\n#"
    assert read_bytes(tmp_path, raw + b"x" * (MAX_BYTES - len(raw))).values == {"a": 1}


def test_a_large_file_of_unknown_keys_is_checked_to_the_end(tmp_path: Path):
    path = tmp_path / "config.yml"
    path.write_text(MINIMAL + "".join(f"learning_rat{i}: 1\n" for i in range(20_000)))
    problems = check_config(str(path)).diagnostics
    assert len(problems) == 20_000
    assert {problem.code for problem in problems} == {"SD0003"}
    # A guess costs a millisecond: a data file gets none
    assert not any("Did you mean" in problem.fix for problem in problems)


@pytest.mark.parametrize("name", ["missing.yml", "~nobody-has-this-name/config.yml", "x" * 5000, "."])
def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    (problem,) = read_document(name).problems
    assert (problem.code, problem.path, problem.place) == ("SD0008", name, Place(1, 1))
    assert "cannot be read" in problem.message


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.yml").write_text("a: 1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_document("~/config.yml").values == {"a": 1}
