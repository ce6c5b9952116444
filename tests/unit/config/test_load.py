from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.conftest import ROOT
from tests.unit.config.texts import MINIMAL
from yaml import safe_dump

from siredon.config.diagnostics import show_json, show_text
from siredon.config.document import parse_document, read_document
from siredon.config.load import Checked, check_document, load_config
from siredon.config.names import REMOVED, RENAMED
from siredon.config.schema import key_homes
from siredon.errors import ConfigError

EXAMPLE = ROOT / "examples/smollm2/identity-lora-cpu.yml"
TEXT = EXAMPLE.read_text()
VALUES = read_document(str(EXAMPLE)).values
KNOWN = {*key_homes(), *RENAMED, *REMOVED}


def test_a_good_file_gives_a_config_and_no_warning():
    config, warnings = load_config(str(EXAMPLE))
    assert warnings == ()
    assert config.adapter.lora_r == VALUES["lora_r"]
    assert config.optimizer.learning_rate == 5e-4


def test_a_file_with_a_warning_gives_both(tmp_path: Path):
    path = tmp_path / "config.yml"
    path.write_text(MINIMAL + "type_of_model: AutoModelForCausalLM\n")
    config, warnings = load_config(str(path))
    assert config.model.model_type == "AutoModelForCausalLM"
    assert [problem.code for problem in warnings] == ["SD0009"]


def test_a_bad_file_raises_with_every_problem_and_their_number(tmp_path: Path):
    path = tmp_path / "config.yml"
    path.write_text(MINIMAL + "lerning_rate: 1\nseed: x\ntype_of_model: x\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert caught.value.num_errors == 2
    message = str(caught.value)
    assert message.index(f"{path}:6:1: error SD0003") < message.index(f"{path}:7:7: error SD0005")
    assert message.endswith(f"{path}: 2 errors, 1 warning")


def test_two_readings_give_one_config():
    assert load_config(str(EXAMPLE)) == load_config(str(EXAMPLE))


# Whatever is in the file: a config or problems, never a traceback

words = some.text(some.characters(codec="utf-8"), max_size=12)
scalars = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(),
    words,
    some.sampled_from(["auto", "no", "1e-4"]),
)
values = some.recursive(
    scalars,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = some.sampled_from(sorted(VALUES))
any_key = some.sampled_from(sorted(KNOWN))


@some.composite
def misspelt(draw: some.DrawFn) -> str:
    """A key of the example with one letter more, less, or another."""
    name = draw(names)
    at = draw(some.integers(0, len(name) - 1))
    letter = draw(some.sampled_from(["", "x", "_", "Z", "é", name[at] * 2]))
    changed = name[:at] + letter + name[at + 1 :]
    return changed if changed not in KNOWN and changed else f"{name}_"


def look_at(text: str) -> Checked:
    """Checks a text and holds what is true of every outcome."""
    checked = check_document(parse_document("config.yml", text))
    problems = checked.diagnostics
    assert (checked.config is None) == any(problem.severity == "error" for problem in problems)
    num_lines = len(text.splitlines())
    for problem in problems:
        assert problem.message
        assert problem.fix
        assert 1 <= problem.place.line <= num_lines + 1
        assert problem.place.column >= 1
    assert list(problems) == sorted(problems, key=lambda problem: (problem.place, problem.code))
    assert (show_text(problems) == "") == (problems == ())
    assert show_json(problems)
    return checked


def codes_at(checked: Checked, name: str) -> set[str]:
    return {problem.code for problem in checked.diagnostics if problem.key == name}


@settings(max_examples=30, deadline=None)
@given(misspelt(), values)
def test_a_misspelt_key_is_never_accepted(name: str, value: object):
    checked = look_at(safe_dump({**VALUES, name: value}, allow_unicode=True, sort_keys=False))
    assert checked.config is None
    assert codes_at(checked, name) == {"SD0003"}


@settings(max_examples=20, deadline=None)
@given(misspelt(), scalars)
def test_a_misspelt_key_of_a_dataset_is_never_accepted(name: str, value: object):
    name = name if name not in ("type", "path") else "pathh"
    checked = look_at(
        safe_dump({**VALUES, "datasets": [{**VALUES["datasets"][0], name: value}]}, allow_unicode=True)
    )
    assert checked.config is None
    assert codes_at(checked, f"datasets.0.{name}") == {"SD0003"}


@settings(max_examples=50, deadline=None)
@given(some.dictionaries(some.one_of(names, any_key), values, min_size=1, max_size=4))
def test_any_value_of_any_key_gives_a_config_or_problems(changes: dict[str, object]):
    look_at(safe_dump({**VALUES, **changes}, allow_unicode=True))


@settings(max_examples=20, deadline=None)
@given(some.sets(names), some.sets(names))
def test_keys_that_are_left_out_or_null_give_a_config_or_problems(gone: set[str], null: set[str]):
    kept = {name: None if name in null else value for name, value in VALUES.items() if name not in gone}
    checked = look_at(safe_dump(kept))
    required = {"base_model", "learning_rate", "datasets"}
    if required & (gone | null):
        assert checked.config is None


@settings(max_examples=30, deadline=None)
@given(some.integers(0, len(TEXT)), some.integers(0, 40), some.text(max_size=20))
def test_a_text_that_is_cut_and_filled_with_anything_gives_a_config_or_problems(
    at: int, length: int, junk: str
):
    raw = (TEXT[:at] + junk + TEXT[at + length :]).encode("utf-8", "ignore")
    look_at(raw.decode())


@settings(max_examples=30, deadline=None)
@given(
    some.lists(
        some.sampled_from([*"abc{}[]:,-?&*!|>'\"#%@`~<\t\n \\", "<<", "&a ", "*a", ": ", "- ", "\n  "])
    )
)
def test_a_text_of_yaml_marks_gives_problems(parts: list[str]):
    assert look_at("".join(parts)).config is None


@settings(max_examples=10, deadline=None)
@given(some.binary(max_size=200))
def test_a_file_of_bytes_gives_problems(tmp_path_factory: pytest.TempPathFactory, raw: bytes):
    path = tmp_path_factory.mktemp("bytes") / "config.yml"
    path.write_bytes(raw)
    assert check_document(read_document(str(path))).config is None
