"""A file over the files that it includes, under what the command line sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import DATASETS, MINIMAL, MODEL

from siredon.config.diagnostics import COMMAND_LINE, Diagnostic, Place, show_text
from siredon.config.document import MAX_BYTES, Document, Source
from siredon.config.layers import MAX_INCLUDES, Layer, Setting, lay_over, read_layers
from siredon.config.load import Checked, check_config
from siredon.config.names import RENAMED
from siredon.config.overrides import split_words
from siredon.config.schema import Config


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**texts: str) -> None:
    """Files in the working folder, `name.yml` each; two underscores are a slash."""
    for name, text in texts.items():
        path = Path(f"{name.replace('__', '/')}.yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(name: str = "top.yml", *words: str) -> Document:
    """What a file and a command line come to, without a problem in the reading."""
    document = read_layers(name, [split_words(words)[1]])
    assert document.problems == ()
    assert document.whole
    return document


def look_at(*words: str) -> Checked:
    return check_config("top.yml", [split_words(["top.yml", *words])[1]])


def accept(*words: str) -> Config:
    checked = look_at(*words)
    assert checked.diagnostics == ()
    assert checked.config is not None
    return checked.config


def find_one(*words: str) -> Diagnostic:
    """The one problem of `top.yml`, which is an error."""
    checked = look_at(*words)
    (problem,) = checked.diagnostics
    assert problem.severity == "error"
    assert checked.config is None
    return problem


def where(problem: Diagnostic) -> tuple[str, str, int, int]:
    return problem.code, problem.path, problem.place.line, problem.place.column


# Includes: what the values come to


def test_one_file_may_be_named_without_a_list():
    write(top="include: base.yml\nb: 2\n", base="a: 1\nb: 1\n")
    assert read().values == {"a": 1, "b": 2, "include": "base.yml"}


def test_each_of_several_lies_over_those_before_it_and_the_file_over_all():
    write(
        top="include: [x.yml, y.yml]\nc: top\n",
        x="a: x\nb: x\nc: x\n",
        y="b: y\nc: y\n",
    )
    values = read().values
    assert (values["a"], values["b"], values["c"]) == ("x", "y", "top")


def test_the_place_of_include_in_the_file_makes_no_difference():
    write(top="a: top\ninclude: base.yml\n", base="a: base\n")
    assert read().values["a"] == "top"


def test_mappings_are_merged_at_any_depth():
    write(top="include: base.yml\nm: {n: {b: 2, c: 2}}\n", base="m: {n: {a: 1, b: 1}, o: 1}\n")
    assert read().values["m"] == {"n": {"a": 1, "b": 2, "c": 2}, "o": 1}


def test_an_empty_mapping_takes_nothing_away():
    write(top="include: base.yml\nm: {}\n", base="m: {a: 1}\n")
    assert read().values["m"] == {"a": 1}


@pytest.mark.parametrize("value", ["[3]", "[]", "text", "4", "null"])
def test_anything_else_is_replaced_whole(value: str):
    write(top=f"include: base.yml\na: {value}\nb: {value}\n", base="a: [1, 2]\nb: {x: {y: 1}}\n")
    document = read()
    alone = read_layers("top.yml", text=f"a: {value}\nb: {value}\n")
    assert {name: document.values[name] for name in "ab"} == alone.values
    # Nothing is left of the places inside
    assert not [path for path in document.keys if path[0] in ("a", "b") and len(path) > len(alone.values)]
    assert ("b", "x", "y") not in document.places
    assert ("a", 1) not in document.places


def test_a_mapping_replaces_what_is_none():
    write(top="include: base.yml\na: {x: 1}\n", base="a: [1, 2]\n")
    document = read()
    assert document.values["a"] == {"x": 1}
    assert ("a", 0) not in document.keys


def test_nothing_after_a_key_takes_the_included_value_back():
    write(
        top="include: base.yml\nseed:\nlr_scheduler: null\n", base=MINIMAL + "seed: 7\nlr_scheduler: linear\n"
    )
    config = accept()
    assert config.batch.seed == 42
    assert config.schedule.lr_scheduler == "cosine"


def test_nothing_inside_a_mapping_takes_the_included_value_back():
    write(
        top="include: base.yml\nspecial_tokens: {pad_token: null}\n",
        base=MINIMAL + "special_tokens: {pad_token: <pad>, eos_token: <end>}\n",
    )
    tokens = accept().tokenizer.special_tokens
    assert (tokens.pad_token, tokens.eos_token) == (None, "<end>")


def test_anchors_and_merge_keys_work_in_both_files():
    write(
        top="include: base.yml\nx: &x {b: top}\nm:\n  <<: *x\n  c: top\n",
        base="y: &y {a: base, b: base}\nm:\n  <<: *y\n  c: base\n  d: base\nz: *y\n",
    )
    values = read().values
    assert values["m"] == {"a": "base", "b": "top", "c": "top", "d": "base"}
    assert values["z"] == {"a": "base", "b": "base"}


def test_an_anchor_holds_in_its_own_file_only():
    write(top="include: base.yml\na: *y\n", base="y: &y 1\n")
    assert where(find_one())[:3] == ("SD0001", "top.yml", 2)


@pytest.mark.parametrize("value", ["", "null", "[]"])
def test_to_include_nothing_is_to_include_nothing(value: str):
    write(top=f"{MINIMAL}include: {value}\n")
    accept()


# Old names in one file, new ones in the other


@pytest.mark.parametrize("old_on_top", [False, True])
def test_the_old_and_the_new_name_are_one_key_and_the_upper_file_wins(old_on_top: bool):
    names = ("model_type", "type_of_model") if old_on_top else ("type_of_model", "model_type")
    write(top=f"include: base.yml\n{names[1]}: Top\n", base=f"{MINIMAL}{names[0]}: Base\n")
    checked = look_at()
    assert checked.config is not None
    assert checked.config.model.model_type == "Top"
    assert [problem.code for problem in checked.diagnostics] == ["SD0009"] * old_on_top


def test_an_old_switch_gives_way_to_the_key_that_it_sets():
    write(top="include: base.yml\nattn_implementation: sdpa\n", base=MINIMAL + "eager_attention: true\n")
    assert accept().attention.attn_implementation == "sdpa"


def test_nothing_after_the_new_name_takes_the_old_one_back():
    write(top="include: base.yml\nattn_implementation:\n", base=MINIMAL + "eager_attention: true\n")
    assert accept().attention.attn_implementation == "sdpa"


def test_an_old_switch_that_is_off_leaves_other_values_alone():
    write(top="include: base.yml\nflash_attention: false\n", base=MINIMAL + "attn_implementation: eager\n")
    assert accept().attention.attn_implementation == "eager"


def test_the_old_and_the_new_name_in_one_file_are_refused_as_ever():
    write(top="include: base.yml\ntype_of_model: A\nmodel_type: B\n", base=MINIMAL + "model_type: C\n")
    assert where(find_one()) == ("SD0011", "top.yml", 2, 1)


def test_mappings_under_two_names_are_refused_and_none_is_lost():
    write(
        top="include: base.yml\nmodel_config: {a: 1}\n", base=MINIMAL + "overrides_of_model_config: {b: 2}\n"
    )
    assert where(find_one()) == ("SD0011", "base.yml", 6, 1)


# Includes: which files


def test_a_path_is_counted_from_the_folder_of_the_file_that_names_it(folder: Path):
    write(deep__top="include: ../other/base.yml\n", other__base="include: next.yml\n", other__next=MINIMAL)
    for name in ("deep/top.yml", str(folder / "deep/top.yml"), "./other/../deep/top.yml"):
        assert read(name).values["base_model"] == "some/model"


def test_a_whole_path_is_taken_as_it_is(folder: Path):
    write(deep__top=f"include: {folder}/base.yml\n", base=MINIMAL)
    assert read("deep/top.yml").values["base_model"] == "some/model"


@pytest.mark.parametrize("name", ["~/top.yml", "top.yml"])
@pytest.mark.parametrize("included", ["~/base.yml", "base.yml"])
def test_the_home_folder_is_understood(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, included: str
):
    monkeypatch.setenv("HOME", str(folder))
    write(top=f"include: {included}\n", base="include: next.yml\n", next=MINIMAL)
    assert read(name).values["base_model"] == "some/model"


def test_a_link_is_followed_and_its_own_folder_counts(folder: Path):
    write(deep__top="include: base.yml\n", base=MINIMAL)
    (folder / "top.yml").symlink_to(folder / "deep/top.yml")
    assert read("top.yml").values["base_model"] == "some/model"


def test_a_name_may_come_from_a_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHICH", "base")
    write(top="include: ${WHICH}.yml\n", base=MINIMAL)
    accept()


def test_a_file_may_be_included_twice_and_its_problems_are_shown_once():
    write(top="include: [x.yml, y.yml]\n", x="include: base.yml\n", y="include: base.yml\n", base=MINIMAL)
    accept()
    write(base=MINIMAL + "seed: 1\nseed: 2\n")
    assert where(find_one()) == ("SD0002", "base.yml", 7, 1)


@pytest.mark.parametrize(
    ("texts", "path", "line"),
    [
        ({"top": "include: top.yml\n"}, "top.yml", 1),
        ({"top": "include: ./x/../top.yml\n"}, "top.yml", 1),
        ({"top": "a: 1\ninclude: x.yml\n", "x": "\ninclude: top.yml\n"}, "x.yml", 2),
        ({"top": "include: x.yml\n", "x": "include: y.yml\n", "y": "include: x.yml\n"}, "y.yml", 1),
    ],
)
def test_a_circle_is_reported_in_the_file_that_closes_it(texts: dict[str, str], path: str, line: int):
    Path("x").mkdir()
    write(**texts)
    problem = find_one()
    assert where(problem) == ("SD0012", path, line, 10)
    assert "includes this file in turn" in problem.message


def test_a_circle_through_a_link_is_reported():
    write(top="include: link.yml\n")
    Path("link.yml").symlink_to("top.yml")
    assert "in turn" in find_one().message


def test_a_missing_file_is_reported_at_its_entry():
    write(top=MINIMAL + "include:\n  - base.yml\n  - missing.yml\n", base="seed: 1\n")
    problem = find_one()
    assert where(problem) == ("SD0012", "top.yml", 8, 5)
    assert "`missing.yml`" in problem.message


def test_every_missing_file_is_reported():
    write(top="include: [a.yml, base.yml, b.yml]\n", base="include: c.yml\n")
    problems = look_at().diagnostics
    assert [where(problem)[1:] for problem in problems] == [
        ("top.yml", 1, 11),
        ("top.yml", 1, 28),
        ("base.yml", 1, 10),
    ]


@pytest.mark.parametrize(
    "name", ["folder", "folder/", ".", "/dev/null", "fifo", "x" * 5000, "~nobody-is-it/x.yml"]
)
def test_what_is_no_plain_file_is_not_included(name: str):
    Path("folder").mkdir()
    os.mkfifo("fifo")
    write(top=f"include: {name}\n")
    assert where(find_one()) == ("SD0012", "top.yml", 1, 10)


@pytest.mark.parametrize(
    "value",
    ["5", "true", "{a: b}", "[base.yml, 5]", "[base.yml, null]", "[[base.yml]]", "''", '"a\\0b"', '"~a\\0b"'],
)
def test_what_names_no_file_is_reported(value: str):
    write(top=f"{MINIMAL}include: {value}\n", base="")
    problem = find_one()
    assert where(problem) == ("SD0012", "top.yml", 6, 10)
    assert "a file, or a list of files" in problem.message


def chain_of(number: int) -> dict[str, str]:
    """`top.yml` includes f1.yml, which includes f2.yml, and so on."""
    files = {f"f{i}": f"include: f{i + 1}.yml\n" for i in range(1, number)}
    return {"top": "include: f1.yml\n", **files, f"f{number}": MINIMAL}


def test_as_many_files_as_are_allowed_can_be_included():
    write(**chain_of(MAX_INCLUDES))
    accept()


def test_one_more_is_refused():
    write(**chain_of(MAX_INCLUDES + 1))
    assert where(find_one()) == ("SD0012", f"f{MAX_INCLUDES}.yml", 1, 10)


def test_a_list_of_too_many_is_refused_once():
    write(top=f"include: [{', '.join(['base.yml'] * 1000)}]\n", base=MINIMAL)
    problem = find_one()
    assert f"over {MAX_INCLUDES} files" in problem.message
    assert problem.place == Place(1, 11 + MAX_INCLUDES * len("base.yml, "))


def test_files_that_include_ever_more_of_each_other_come_to_an_end():
    for i in range(20):
        write(**{f"f{i}": f"include: [{', '.join([f'f{i + 1}.yml'] * 20)}]\n"})
    write(top="include: f0.yml\n", f20=MINIMAL)
    problems = look_at().diagnostics
    assert problems
    assert all("over 50 files" in problem.message for problem in problems)


def test_files_that_are_large_together_are_refused():
    write(top="include: [x.yml, y.yml]\n", x=MINIMAL)
    room = MAX_BYTES - len(MINIMAL)
    write(y="seed: 7\n#" + "x" * (room - 9))
    assert accept().batch.seed == 7
    write(y="seed: 7\n#" + "x" * (room - 8))
    problem = find_one()
    assert where(problem) == ("SD0012", "top.yml", 1, 18)
    assert "over 1,000,000 characters" in problem.message


# Includes: places


def test_each_value_knows_the_file_and_the_line_where_it_stands():
    write(top="include: base.yml\n\nm:\n  b: 2\n", base="a: 1\nm:\n  a: 1\n  b: 1\nl:\n  - x: 1\n")
    document = read()
    assert {path: (document.source_of(path).name, document.keys[path].line) for path in document.keys} == {
        ("include",): ("top.yml", 1),
        ("m",): ("top.yml", 3),
        ("m", "b"): ("top.yml", 4),
        ("m", "a"): ("base.yml", 3),
        ("a",): ("base.yml", 1),
        ("l",): ("base.yml", 5),
        ("l", 0): ("base.yml", 6),
        ("l", 0, "x"): ("base.yml", 6),
    }
    assert document.source_of(("l", 0, "missing")).name == "base.yml"
    assert document.source_of(("missing",)).name == "top.yml"


def test_an_error_in_an_included_file_is_shown_there_with_its_own_line():
    write(
        top="include: deep/base.yml\nseed: 1\n",
        deep__base="# a comment\n" + MINIMAL + "lr_scheduler: cosne\n",
    )
    problem = find_one()
    assert where(problem) == ("SD0006", "deep/base.yml", 7, 15)
    assert show_text([problem]).splitlines()[:3] == [
        "deep/base.yml:7:15: error SD0006: `lr_scheduler` cannot be 'cosne'",
        "    7 | lr_scheduler: cosne",
        "      |               ^",
    ]


def test_an_error_inside_a_list_of_an_included_file_is_shown_there():
    write(top="include: base.yml\n", base=MODEL + "datasets:\n  - path: x\n    type: alpaca\n    splitt: y\n")
    assert where(find_one()) == ("SD0003", "base.yml", 6, 5)


def test_an_error_of_two_files_together_is_shown_at_the_key_to_blame():
    write(top="include: base.yml\nwarmup_steps: 10\n", base=MINIMAL + "warmup_ratio: 0.1\n")
    assert where(find_one()) == ("SD0101", "base.yml", 6, 1)


def test_an_old_name_in_an_included_file_is_shown_there():
    write(top="include: base.yml\n", base=MINIMAL + "type_of_model: X\n")
    (problem,) = look_at().diagnostics
    assert where(problem) == ("SD0009", "base.yml", 6, 1)


def test_an_error_that_the_upper_file_puts_right_is_none():
    write(top="include: base.yml\nlr_scheduler: linear\n", base=MINIMAL + "lr_scheduler: cosne\n")
    accept()


def test_an_unknown_key_of_an_included_file_is_an_error_even_when_it_is_set_back():
    write(top="include: base.yml\nlerning_rate:\n", base=MINIMAL + "lerning_rate: 1\n")
    assert where(find_one()) == ("SD0003", "top.yml", 2, 1)


@pytest.mark.parametrize(
    ("text", "line"), [("a: [1, 2\nb: 3\n", 2), ("", 1), ("- a\n", 1), ("a:\n\tb: 1\n", 2), ("a: *x\n", 1)]
)
def test_yaml_that_is_broken_in_an_included_file_is_the_only_problem(text: str, line: int):
    # Nothing is said of `nonsense`, nor that base_model is missing
    write(top="include: base.yml\nnonsense: 1\n", base=text)
    problem = find_one()
    assert where(problem)[:3] == ("SD0001", "base.yml", line)
    assert problem.text == text


def test_yaml_that_is_broken_in_the_upper_file_leaves_the_others_unread():
    write(top="include: base.yml\na: [\n", base="b: [\n")
    assert where(find_one())[:2] == ("SD0001", "top.yml")


def test_an_included_file_that_is_no_text_is_reported():
    write(top="include: base.yml\n")
    Path("base.yml").write_bytes(b"\xff\xfe\x00")
    assert where(find_one())[:2] == ("SD0001", "base.yml")


def test_an_included_file_that_cannot_be_read_is_reported(monkeypatch: pytest.MonkeyPatch):
    write(top="include: base.yml\n", base=MINIMAL)
    open_file = Path.open

    def open_some(path: Path, mode: str) -> Any:
        if path.name == "base.yml":
            raise PermissionError(13, "Permission denied")
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_some)
    problem = find_one()
    assert where(problem) == ("SD0008", "base.yml", 1, 1)
    assert "Permission denied" in problem.message


def test_problems_of_the_file_come_before_those_of_included_ones_and_of_the_command_line():
    write(top="include: [z.yml, a.yml]\nxx: 1\n", z=MINIMAL + "yy: 1\n", a="zz: 1\n")
    found = [(problem.path, problem.key) for problem in look_at("ww=1").diagnostics]
    assert found == [("top.yml", "xx"), ("a.yml", "zz"), ("z.yml", "yy"), (COMMAND_LINE, "ww")]


# What is laid over


def test_a_setting_takes_the_place_of_a_value():
    write(top=MINIMAL + "seed: 1\n")
    assert accept("--seed", "7").batch.seed == 7
    assert accept("seed=7", "seed=8").batch.seed == 8


def test_a_setting_takes_the_place_of_an_included_value():
    write(top="include: base.yml\n", base=MINIMAL + "seed: 1\n")
    assert accept("seed=7").batch.seed == 7


def test_nothing_is_changed_in_the_document_below():
    write(top=MINIMAL + "special_tokens: {pad_token: a}\n")
    below = read()
    before = repr(below)
    words = ["special_tokens.pad_token=b", "datasets.0.path=c", "datasets.1.path=d", "seed=1"]
    assert lay_over(below, split_words(words)[1]).values["datasets"][0]["path"] == "c"
    assert repr(below) == before


def test_no_settings_leave_the_document_as_it_is():
    write(top=MINIMAL)
    below = read()
    assert lay_over(below, split_words(["top.yml"])[1]) == below


def test_layers_lie_over_each_other_in_their_order():
    write(top=MINIMAL)
    layers = [split_words([f"seed={number}"])[1] for number in (1, 2)]
    assert read_layers("top.yml", layers).values["seed"] == 2


@pytest.mark.parametrize(
    ("words", "column"),
    [
        (["--seed", "x"], 16),
        (["--seed=x"], 16),
        (["seed=x"], 14),
        (["--lora-r", "8", "seed=x"], 25),
    ],
)
def test_a_wrong_value_is_shown_on_the_command_line(words: list[str], column: int):
    write(top=MINIMAL + "seed: 1\nadapter: lora\nlora_alpha: 2\nlora_r: 4\nlora_target_linear: true\n")
    problem = find_one(*words)
    assert where(problem) == ("SD0005", COMMAND_LINE, 1, column)
    line = " ".join(["top.yml", *words])
    assert problem.line_text == line
    assert line[column - 1] == "x"


def test_an_unknown_key_is_shown_at_the_key_on_the_command_line():
    write(top=MINIMAL)
    problem = find_one("--seed", "1", "--lerning-rate", "1")
    assert where(problem) == ("SD0003", COMMAND_LINE, 1, 18)
    assert problem.fix == "Did you mean `learning_rate`?"


def test_a_problem_of_a_key_beside_it_stays_where_it_is():
    write(top=MINIMAL + "lr_scheduler: cosne\n")
    assert where(find_one("--seed", "1")) == ("SD0006", "top.yml", 6, 15)


def test_a_rule_that_a_setting_breaks_points_at_the_command_line():
    write(top=MINIMAL + "warmup_steps: 1\n")
    assert where(find_one("warmup_ratio=0.5")) == ("SD0101", COMMAND_LINE, 1, 9)


@pytest.mark.parametrize("word", ["seed=null", "seed=", "seed=~", "--seed=null"])
def test_a_setting_to_nothing_goes_back_to_the_default(word: str):
    write(top=MINIMAL + "seed: 1\n")
    assert accept(word).batch.seed == 42


def test_a_required_key_set_to_nothing_is_missing():
    write(top=MINIMAL)
    problem = find_one("base_model=null")
    assert (problem.code, problem.key, problem.path) == ("SD0007", "base_model", COMMAND_LINE)


# What is laid over: inside lists, mappings and sections


def datasets_of(*words: str) -> list[Any]:
    return read("top.yml", *words).values["datasets"]


def test_an_entry_of_a_list_is_counted_from_0():
    write(top=MODEL + DATASETS + "  - {path: second, type: alpaca}\n")
    assert datasets_of("datasets.1.path=x") == [
        {"path": "rows.jsonl", "type": "alpaca"},
        {"path": "x", "type": "alpaca"},
    ]
    assert datasets_of("datasets.0={path: y, type: completion}")[0] == {"path": "y", "type": "completion"}


def test_the_entry_behind_the_last_is_added():
    write(top=MINIMAL)
    assert datasets_of("datasets.1.path=x", "datasets.1.type=alpaca", "datasets.2.path=y")[1:] == [
        {"path": "x", "type": "alpaca"},
        {"path": "y"},
    ]


@pytest.mark.parametrize("start", ["", "test_datasets:\n", "test_datasets: []\n"])
def test_a_list_that_is_not_there_begins_with_its_first_entry(start: str):
    write(top=MINIMAL + start)
    config = accept("test_datasets.0.path=x", "test_datasets.0.type=alpaca", "lora_modules_to_save=null")
    assert [entry.path for entry in config.data.test_datasets] == ["x"]


def test_a_list_of_words_can_be_changed_word_by_word():
    write(top=MINIMAL + "adapter: lora\nlora_r: 8\nlora_alpha: 8\nlora_target_modules: [q_proj, v_proj]\n")
    config = accept("lora_target_modules.1=k_proj", "lora_target_modules.2=o_proj")
    assert config.adapter.lora_target_modules == ("q_proj", "k_proj", "o_proj")


def test_a_key_inside_a_mapping_or_section_is_set_beside_its_neighbours():
    write(top=MINIMAL + "model_config: {a: 1, b: {c: 1}}\nspecial_tokens: {eos_token: <end>}\n")
    config = accept("model_config.b.d=2", "special_tokens.pad_token=<pad>", "model_config.e=3")
    assert config.model.overrides == {"a": 1, "b": {"c": 1, "d": 2}, "e": 3}
    assert config.tokenizer.special_tokens.eos_token == "<end>"
    assert config.tokenizer.special_tokens.pad_token == "<pad>"


def test_a_mapping_that_is_not_there_begins_with_its_first_key():
    write(top=MINIMAL + "model_config:\n")
    config = accept("special_tokens.pad_token=<pad>", "model_config.a.b=1")
    assert config.tokenizer.special_tokens.pad_token == "<pad>"
    assert config.model.overrides == {"a": {"b": 1}}


def test_a_whole_mapping_replaces_the_one_of_the_file():
    write(top=MINIMAL + "model_config: {a: 1, b: {c: 1}}\n")
    document = read("top.yml", "model_config={d: [1, 2]}")
    assert document.values["model_config"] == {"d": [1, 2]}
    assert ("model_config", "b", "c") not in document.keys
    assert document.source_of(("model_config", "d", 1)).name == COMMAND_LINE
    assert document.keys[("model_config", "d", 1)] == Place(1, 15)


def test_a_wrong_key_inside_is_shown_on_the_command_line_and_the_rest_in_the_file():
    write(top=MODEL + "datasets:\n  - path: x\n    type: alpaca\n    splitt: y\n")
    problems = look_at("datasets.0.pathh=1", "datasets.1.tipe=1").diagnostics
    assert [(problem.code, problem.key, *where(problem)[1:]) for problem in problems] == [
        ("SD0003", "datasets.0.splitt", "top.yml", 6, 5),
        ("SD0003", "datasets.0.pathh", COMMAND_LINE, 1, 9),
        ("SD0003", "datasets.1.tipe", COMMAND_LINE, 1, 28),
        ("SD0007", "datasets.1.path", COMMAND_LINE, 1, 28),
    ]  # and not that `type` is missing: it is there, with a slip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("datasets.2.path=x", "`2` is no entry: the list has 1"),
        ("datasets.999999999=x", "is no entry"),
        ("datasets.path=x", "`path` is no entry"),
        ("datasets.-1.path=x", ""),
        ("datasets..path=x", "`` is no entry"),
        ("datasets.²=x", "`²` is no entry"),
        (f"datasets.{'9' * 5000}=x", "is no entry"),
        ("test_datasets.1.path=x", "the list has 0"),
        ("datasets.0.path.x=1", "`x` cannot be set in a value that is no mapping"),
        ("base_model.0=1", "`0` cannot be set in a value that is no mapping"),
        ("learning_rate.x.y=1", "`x` cannot be set"),
    ],
)
def test_a_place_that_is_not_there_is_reported(word: str, said: str):
    write(top=MINIMAL)
    if not said:  # A dash is no part of a key
        assert split_words([word])[0] == [word]
        return
    problem = find_one("--seed", "1", word)
    assert where(problem) == ("SD0014", COMMAND_LINE, 1, 18 + ("²" in word))
    assert said in problem.message
    assert "`datasets.0.path`" in problem.fix


def test_settings_beside_a_bad_one_hold():
    write(top=MINIMAL)
    document = read_layers("top.yml", [split_words(["seed=1", "datasets.7.path=x", "lora_r=2"])[1]])
    assert (document.values["seed"], document.values["lora_r"]) == (1, 2)
    assert len(document.problems) == 1


# What is laid over: old names


@pytest.mark.parametrize("old_in_file", [False, True])
def test_the_old_and_the_new_name_are_one_key_and_the_setting_wins(old_in_file: bool):
    below, above = ("type_of_model", "model_type") if old_in_file else ("model_type", "type_of_model")
    write(top=f"{MINIMAL}{below}: File\n")
    checked = look_at(f"{above}=Line")
    assert checked.config is not None
    assert checked.config.model.model_type == "Line"
    found = [(problem.code, problem.path) for problem in checked.diagnostics]
    assert found == ([] if old_in_file else [("SD0009", COMMAND_LINE)])


@pytest.mark.parametrize(
    "name", sorted(name for name, rename in RENAMED.items() if "." not in rename.new + name)
)
def test_the_new_name_of_every_old_key_wins_over_it(name: str):
    write(top=f"{MINIMAL}{name}: true\n")
    assert name not in read("top.yml", f"{RENAMED[name].new}=null").values


def test_two_old_switches_are_one_key():
    write(top=MINIMAL + "sdp_attention: true\n")
    checked = look_at("--eager-attention")
    assert checked.config is not None
    assert checked.config.attention.attn_implementation == "eager"


@pytest.mark.parametrize(
    ("line", "word", "value"),
    [
        ("attn_implementation: eager", "--no-eager-attention", "sdpa"),
        ("attn_implementation: eager", "--no-flash-attention", "eager"),
        ("attn_implementation: eager", "flash_attention=null", "eager"),
        ("attn_implementation: eager", "attn_implementation=null", "sdpa"),
        ("eager_attention: true", "--no-eager-attention", "sdpa"),
        ("eager_attention: true", "--no-flash-attention", "eager"),
    ],
)
def test_an_old_switch_that_is_turned_off_takes_back_only_what_it_turns_on(line: str, word: str, value: str):
    write(top=f"{MINIMAL}{line}\n")
    config = look_at(word).config
    assert config is not None
    assert config.attention.attn_implementation == value


# Strict


def test_strict_lets_the_command_line_change_only_what_the_file_sets():
    write(top=MINIMAL + "strict: true\nseed: 1\n")
    assert accept("seed=2", "datasets.0.path=x").batch.seed == 2
    problem = find_one("--seed", "2", "--lora-r", "8")
    assert where(problem) == ("SD0015", COMMAND_LINE, 1, 18)
    assert problem.key == "lora_r"


def test_strict_knows_old_names_and_included_keys():
    write(top="include: base.yml\nseed: 1\n", base=MINIMAL + "strict: true\ntype_of_model: A\nlora_r: null\n")
    checked = look_at("model_type=B", "lora_r=null", "learning_rate=1")
    assert checked.config is not None
    assert checked.config.model.model_type == "B"
    assert find_one("model_type=B", "lora_alpha=null").code == "SD0015"


@pytest.mark.parametrize("value", ["false", "", "null"])
def test_without_strict_any_key_may_be_set(value: str):
    write(top=f"{MINIMAL}strict: {value}\n")
    assert accept("seed=2").batch.seed == 2


@pytest.mark.parametrize("word", ["--no-strict", "strict=null", "strict=false"])
def test_the_command_line_cannot_lift_what_the_file_says(word: str):
    write(top=MINIMAL + "strict: true\n")
    assert find_one(word, "seed=2").code == "SD0015"


def test_strict_is_true_or_false():
    write(top=MINIMAL + "strict: maybe\n")
    assert where(find_one()) == ("SD0005", "top.yml", 6, 9)


# What cannot be laid over


@pytest.mark.parametrize(
    "word", ["include=base.yml", "--include=base.yml", "include.0=base.yml", "include=null"]
)
def test_the_command_line_includes_no_file(word: str):
    write(top=MINIMAL, base="seed: 7\n")
    problem = find_one(word)
    assert where(problem) == ("SD0014", COMMAND_LINE, 1, 9)
    assert "can only stand in a file" in problem.message


@pytest.mark.parametrize("text", ["a: [\n", "strict: true\ninclude: missing.yml\n"])
def test_of_a_file_that_is_not_whole_nothing_is_said_about_the_settings(text: str):
    write(top=text)
    assert find_one("datasets.1.path=x", "seed=1").path == "top.yml"


def test_settings_may_come_from_elsewhere():
    write(top=MINIMAL)
    place = Place(3, 7)
    layer = Layer(Source("a sweep", "\n\n      seed=x"), (Setting(("seed",), "x", place, place),))
    (problem,) = check_config("top.yml", [layer]).diagnostics
    assert where(problem) == ("SD0005", "a sweep", 3, 7)
    assert problem.line_text == "      seed=x"


def test_a_text_can_stand_for_the_file():
    write(top="a: [", base=MINIMAL)
    document = read_layers("top.yml", text="include: base.yml\nseed: 1\n")
    assert document.values["base_model"] == "some/model"
    assert document.source_of(("seed",)).text == "include: base.yml\nseed: 1\n"
