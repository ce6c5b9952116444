"""Words of the command line -> files and settings."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import MINIMAL
from typer.testing import CliRunner, Result

from siredon.cli.app import app, main
from siredon.config.deal import allows_bool, literal_words
from siredon.config.diagnostics import COMMAND_LINE, Place
from siredon.config.names import RENAMED
from siredon.config.overrides import split_words
from siredon.config.schema import key_homes

HOMES = key_homes()
SWITCHES = sorted(name for name, info in HOMES.items() if allows_bool(info.field.annotation))
OLD_SWITCHES = sorted(name for name, rename in RENAMED.items() if rename.value is not None)
NO_SWITCHES = sorted(set(HOMES) - set(SWITCHES))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yml").write_text(MINIMAL)
    return tmp_path


def split(*words: str) -> tuple[list[str], dict[str, Any]]:
    """What is no setting, and the settings by dotted name."""
    rest, layer = split_words(words)
    return rest, {".".join(map(str, setting.path)): setting.value for setting in layer.settings}


def value_of(*words: str) -> Any:
    """The value of the one setting, with its kind."""
    rest, settings = split(*words)
    assert rest == []
    (value,) = settings.values()
    return value


def exactly(value: Any) -> tuple[Any, type]:
    return value, type(value)


# Forms


@pytest.mark.parametrize(
    "words",
    [
        ["--learning-rate", "1e-4"],
        ["--learning_rate", "1e-4"],
        ["--learning-rate=1e-4"],
        ["--learning_rate=1e-4"],
        ["learning_rate=1e-4"],
    ],
    ids=" ".join,
)
def test_a_key_is_set_in_any_of_these_forms(words: list[str]):
    for before, after in (([], ["c.yml"]), (["c.yml"], [])):
        assert split(*before, *words, *after) == (["c.yml"], {"learning_rate": 1e-4})


@pytest.mark.parametrize(
    "words",
    [
        ["--datasets.0.field-messages", "talk"],
        ["--datasets.0.field_messages=talk"],
        ["--datasets.0.field-messages=talk"],
        ["datasets.0.field_messages=talk"],
    ],
    ids=" ".join,
)
def test_a_key_inside_another_is_reached_by_dots(words: list[str]):
    (setting,) = split_words(words)[1].settings
    assert setting.path == ("datasets", 0, "field_messages")
    assert setting.value == "talk"


def test_dots_reach_a_key_that_has_dashes_on_every_level():
    assert split("--special-tokens.pad-token", "x", "--lr-scheduler-kwargs.num-cycles=2") == (
        [],
        {"special_tokens.pad_token": "x", "lr_scheduler_kwargs.num_cycles": 2},
    )


def test_several_settings_and_files_keep_their_order():
    rest, layer = split_words(["a.yml", "seed=1", "b.yml", "--seed", "2", "--bf16", "c.yml", "seed=3"])
    assert rest == ["a.yml", "b.yml", "c.yml"]
    assert [setting.value for setting in layer.settings] == [1, 2, True, 3]


def test_without_settings_there_are_none():
    rest, layer = split_words(["a.yml"])
    assert (rest, layer.settings) == (["a.yml"], ())
    assert split_words([])[0] == []


def test_only_the_first_equals_sign_parts():
    assert value_of("base_model=a=b") == "a=b"
    assert value_of("--base-model=a=b") == "a=b"
    assert value_of("--base-model", "a=b") == "a=b"
    assert value_of("--base-model", "seed=1") == "seed=1"


@pytest.mark.parametrize(
    "word",
    ["-1", "-x", "--", "-", "=1", "1a=1", "learning-rate=1", "a b=1", "--1a", "--_a", "a/b=c", "é.yml", ""],
)
def test_what_is_no_setting_is_left(word: str):
    assert split(word) == ([word], {})


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(folder: Path):
    assert split("seed=1") == ([], {"seed": 1})
    (folder / "seed=1").write_text(MINIMAL)
    (folder / "runs").mkdir()
    (folder / "runs/lr=1e-4.yml").write_text(MINIMAL)
    assert split("seed=1", "seed=2") == (["seed=1"], {"seed": 2})
    assert split("runs/lr=1e-4.yml") == (["runs/lr=1e-4.yml"], {})
    # An option is no file
    assert split("--seed=1") == ([], {"seed": 1})


@pytest.mark.parametrize(
    "word", ["seed=" + "x" * 100_000, "x" * 100_000, "seed=\udcff", "--seed=\udcff", "\udcff"]
)
def test_a_word_of_any_length_and_bytes_is_no_traceback(word: str):
    split(word)


# Switches


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_needs_no_value_and_can_be_turned_off(name: str):
    option = name.replace("_", "-")
    assert split(f"--{option}", "c.yml") == (["c.yml"], {name: True})
    assert split(f"--no-{option}", "c.yml") == (["c.yml"], {name: False})
    assert split(f"--no_{name}", "c.yml") == (["c.yml"], {name: False})
    assert split("c.yml", f"--{option}") == (["c.yml"], {name: True})
    assert split(f"--{option}", "--seed", "1") == ([], {name: True, "seed": 1})
    assert split(f"--{option}", "false", "c.yml") == (["c.yml"], {name: False})


@pytest.mark.parametrize("name", OLD_SWITCHES)
def test_every_old_switch_is_one_still(name: str):
    assert split(f"--{name}", "c.yml") == (["c.yml"], {name: True})
    assert split(f"--no-{name}", "c.yml") == (["c.yml"], {name: False})
    assert split(f"--{name}", "false", "c.yml") == (["c.yml"], {name: False})


@pytest.mark.parametrize("name", NO_SWITCHES)
def test_every_other_key_takes_the_next_word(name: str):
    assert split(f"--{name}", "c.yml") == ([], {name: "c.yml"})
    assert split(f"--no-{name}", "c.yml") == ([], {f"no_{name}": "c.yml"})


def test_a_switch_inside_another_key_needs_no_value():
    assert split("--trl.use-vllm", "c.yml") == (["c.yml"], {"trl.use_vllm": True})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("yes", True),
        ("on", True),
        ("True", True),
        ("FALSE", False),
        ("no", False),
        ("off", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_a_switch_takes_a_word_that_can_be_its_value(word: str, value: bool | None):
    assert split("--sample-packing", word, "c.yml") == (["c.yml"], {"sample_packing": value})
    assert split(f"--sample-packing={word}") == ([], {"sample_packing": value})


@pytest.mark.parametrize("name", [name for name in SWITCHES if literal_words(HOMES[name].field.annotation)])
def test_a_switch_takes_every_word_of_its_own(name: str):
    for word in literal_words(HOMES[name].field.annotation):
        assert split(f"--{name}", word, "c.yml") == (["c.yml"], {name: word})


@pytest.mark.parametrize("word", ["c.yml", "autos", "1", "0", "y", "-1", "AUTO"])
def test_a_switch_leaves_any_other_word(word: str):
    assert split("--bf16", word) == ([word], {"bf16": True})


def test_a_switch_that_is_turned_off_takes_no_value():
    assert split("--no-bf16", "auto") == (["auto"], {"bf16": False})
    assert split("--no-bf16", "true") == (["true"], {"bf16": False})
    assert split("--no-bf16=true") == ([], {"no_bf16": True})


def test_a_key_that_is_called_no_is_no_switch_turned_off():
    assert split("--no-such-key", "1") == ([], {"no_such_key": 1})
    assert split("--no-such-key") == ([], {"no_such_key": True})
    assert split("--nonexpert-quantization=1") == ([], {"nonexpert_quantization": 1})


def test_an_option_at_the_end_that_needs_a_value_is_an_error():
    result = invoke("c.yml", "--learning-rate")
    assert result.exit_code == 1
    assert "`learning_rate` cannot be `true`" in result.stdout


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-1", -1),
        ("-1e-4", -1e-4),
        ("1e-4", 1e-4),
        ("010", 10),
        ("true", True),
        ("word", "word"),
        ("[1, 2]", [1, 2]),
        ("[]", []),
        ("[a, 'b c']", ["a", "b c"]),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("{}", {}),
        ("'8'", "8"),
        ('"8"', "8"),
        ("1:30", "1:30"),
        ("a: b", {"a": "b"}),
        ("a,b", "a,b"),
        ("null", None),
        ("", None),
        (" ", None),
    ],
)
@pytest.mark.parametrize("key", ["unknown", "model_config.rope"])
def test_a_value_is_read_as_yaml(key: str, text: str, value: Any):
    for words in ([f"{key}={text}"], [f"--{key}={text}"], [f"--{key}", text]):
        assert exactly(value_of(*words)) == exactly(value)


@pytest.mark.parametrize("text", ["[1", "{a", "a: b: c", "*x", "@x", "'open", "%x", "a\nb: 1", "[" * 100])
def test_what_is_no_yaml_is_text(text: str):
    assert value_of(f"unknown={text}") == text


@pytest.mark.parametrize("text", ["#5", "# all a comment", "&x", "!!str"])
def test_what_yaml_would_read_as_nothing_is_text(text: str):
    # A value that is lost without a word would be a default that nobody asked for
    assert value_of(f"seed={text}") in (text, "")
    assert value_of(f"seed={text}") is not None


def test_a_key_that_stands_twice_in_a_value_is_not_passed_over():
    assert value_of("model_config={a: 1, a: 2}") == "{a: 1, a: 2}"
    result = invoke("c.yml", "model_config={a: 1, a: 2}")
    assert "expected a mapping" in result.stdout


@pytest.mark.parametrize(
    "key", ["model_revision", "revision_of_model", "base_model", "datasets.0.split", "output_dir"]
)
@pytest.mark.parametrize(
    "text",
    [
        "123",
        "007",
        "1e5",
        "true",
        "no",
        "[PAD]",
        "{x}",
        "a: b",
        "#3",
        "run #3",
        "|",
        ">",
        "!x",
        "&x",
        "- a",
        "x ",
        "a'b",
    ],
)
def test_a_key_of_text_takes_the_word_as_it_is(key: str, text: str):
    assert value_of(f"{key}={text}") == text
    assert value_of(f"--{key}", text) == text


@pytest.mark.parametrize(
    ("text", "value"), [("'123'", "123"), ('"null"', "null"), ("''", ""), ("'a' b", "'a' b")]
)
def test_quotes_around_a_text_are_taken_off_if_they_are_quotes(text: str, value: str):
    assert value_of(f"model_revision={text}") == value


@pytest.mark.parametrize("text", ["null", "~", "", "NULL"])
def test_a_key_of_text_can_be_set_back(text: str):
    assert value_of(f"model_revision={text}") is None


def test_a_word_that_a_key_lists_is_that_word():
    # YAML reads `no` as false
    assert value_of("--save-strategy", "no") == "no"
    assert value_of("eval_strategy=no") == "no"
    assert value_of("--datasets.0.train-on-eos", "none") == "none"
    assert value_of("--bf16=no") is False
    assert invoke("c.yml", "--save-strategy", "no").exit_code == 0


def test_negative_numbers_are_values():
    assert split("--seed", "-1", "c.yml") == (["c.yml"], {"seed": -1})
    assert split("--max-grad-norm", "-1.5e-3") == ([], {"max_grad_norm": -1.5e-3})


def test_a_word_with_two_dashes_is_an_option_and_no_value():
    assert split("--output-dir", "--seed", "1") == ([], {"output_dir": True, "seed": 1})


def test_several_words_are_one_value_only_as_a_list():
    assert value_of("--lora-target-modules", "[q_proj, v_proj]") == ["q_proj", "v_proj"]
    assert split("--lora-target-modules", "q_proj", "v_proj")[0] == ["v_proj"]


# Places


@pytest.mark.parametrize(
    ("words", "keys", "values"),
    [
        (["seed=1"], [1], [6]),
        (["--seed", "1"], [1], [8]),
        (["--seed=1"], [1], [8]),
        (["c.yml", "--bf16", "--no-tf32"], [7, 14], [7, 14]),
        (["--bf16", "auto", "c.yml", "seed=1"], [1, 19], [8, 24]),
        (["a b.yml", "--output-dir", "a b", "seed=1"], [11, 30], [25, 35]),
        (["output_dir=a b", "seed=1"], [2, 18], [13, 23]),
        (["--output-dir=it's", "seed=1"], [2, 25], [15, 30]),
        (["--output-dir", "$x", "seed=1"], [1, 19], [15, 24]),
        (["lora_target_modules=[a, b]", "é", "--seed", "1"], [2, 34], [22, 41]),
    ],
)
def test_each_key_and_value_has_its_column_in_the_line_as_a_shell_takes_it(
    words: list[str], keys: list[int], values: list[int]
):
    _, layer = split_words(words)
    line = layer.source.text
    assert layer.source.name == COMMAND_LINE
    assert shlex.split(line) == words
    assert [setting.key for setting in layer.settings] == [Place(1, column) for column in keys]
    assert [setting.place for setting in layer.settings] == [Place(1, column) for column in values]
    for setting in layer.settings:
        name = str(setting.path[0])
        found = line[setting.key.column - 1 :].replace("-", "_").lstrip("_").removeprefix("no_")
        assert found.startswith(name)


# Through the command line


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


@pytest.mark.parametrize(
    "words",
    [
        ["c.yml", "--learning-rate", "1e-3"],
        ["--learning-rate", "1e-3", "c.yml"],
        ["--bf16", "c.yml"],
        ["--bf16", "auto", "c.yml"],
        ["--no-sample-packing", "c.yml", "--format", "text"],
        ["--format", "text", "--seed", "5", "c.yml"],
        ["c.yml", "datasets.0.path=x", "--test-datasets", "[]"],
        ["--", "c.yml", "seed=1"],
        ["--eager-attention=false", "c.yml"],
    ],
    ids=" ".join,
)
def test_settings_stand_anywhere_among_the_options_of_a_command(words: list[str]):
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (0, "c.yml: no problems\n")


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--seed=-1"], ["seed=-1"]], ids=" ".join)
def test_a_negative_number_passes_the_parser_of_options(words: list[str]):
    result = invoke("c.yml", *words)
    assert result.exit_code == 1
    assert "error SD0005: `seed` cannot be -1" in result.stdout


def test_a_problem_is_shown_with_the_line_and_a_caret():
    result = invoke("c.yml", "--output-dir", "a b", "--lr-scheduler", "cosne")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("command line:1:41: error SD0006")
    assert lines[1] == "    1 | c.yml --output-dir 'a b' --lr-scheduler cosne"
    assert lines[2].index("^") == lines[1].index("cosne")


def test_a_problem_is_shown_to_programs():
    (row,) = json.loads(invoke("c.yml", "--format", "json", "lerning_rate=1").stdout)
    assert (row["code"], row["file"], row["line"], row["column"]) == ("SD0003", COMMAND_LINE, 1, 7)


def test_an_unknown_option_is_an_unknown_key():
    result = invoke("c.yml", "--lerning-rate", "1e-4")
    assert result.exit_code == 1
    assert "unknown key `lerning_rate`" in result.stdout


@pytest.mark.parametrize(
    "words",
    [[], ["seed=1"], ["--bf16"], ["c.yml", "d.yml"], ["c.yml", "-x"], ["c.yml", "learning-rate=1"]],
    ids=" ".join,
)
def test_another_number_of_files_than_one_is_a_wrong_command_line(words: list[str]):
    assert invoke(*words).exit_code == 2


@pytest.mark.parametrize("verb", ["preprocess", "train", "inference", "merge-lora"])
def test_every_verb_takes_settings(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["siredon", verb, "--seed", "x", "c.yml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "command line:1:8: error SD0005: `seed`" in capsys.readouterr().err
