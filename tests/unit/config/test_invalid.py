from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from tests.unit.config.texts import DATASETS, MODEL, accept, check, find, find_one
from yaml import safe_dump

from siredon.config.deal import built_words
from siredon.config.diagnostics import Place
from siredon.config.fields import Auto, Bool, Float, Int, Str, StrList
from siredon.config.schema import KeyInfo, key_homes

ENTRY = "test_datasets:\n  - path: rows.jsonl\n    type: alpaca\n    "
WORKING = [info for info in key_homes().values() if info.status == "works"]
#: Those that take one of several words; where a mapping is taken, they are names in it.
CHOICES = [info for info in WORKING if built_words(info) and info.name != "torch_compile_options"]


def convert(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


# The kinds of fields.py


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        (Float, 1, 1.0),
        (Float, 2e-4, 2e-4),
        (Float, "2e-4", 2e-4),
        (Int, 4, 4),
        (Int, 4.0, 4),
        (Int, 1e3, 1000),
        (Bool, True, True),
        (Bool, False, False),
        (Str, "1", "1"),
        (StrList, "one", ("one",)),
        (StrList, ["one", "two"], ("one", "two")),
        (StrList, [], ()),
        (Auto, "auto", "auto"),
        (Auto, True, True),
    ],
)
def test_a_kind_converts_what_means_the_same(kind: Any, value: Any, result: Any):
    got = convert(kind, value)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((Float, value) for value in (True, "auto", "", None, [], {}, math.inf, math.nan, "inf")),
        *((Int, value) for value in (True, False, 4.5, "4", "", None, [4], {}, math.inf, math.nan)),
        *((Bool, value) for value in (0, 1, "true", "yes", "", None, [], 1.0)),
        *((Str, value) for value in (1, 1.5, True, None, ["a"], {}, "a\0b")),
        *((StrList, value) for value in (1, True, None, {}, [1], ["a", None], [["a"]])),
        *((Auto, value) for value in (None, [], {}, 2.5)),
    ],
)
def test_a_kind_refuses_everything_else(kind: Any, value: Any):
    with pytest.raises(ValidationError):
        convert(kind, value)


@pytest.mark.parametrize(
    ("text", "shown", "expected"),
    [
        ("max_grad_norm: true", "`true`", "a number, not true or false"),
        ("max_grad_norm: much", "'much'", "a number"),
        ("max_grad_norm: [1]", "a list", "a number"),
        ("num_epochs: .inf", "inf", "a finite number"),
        ("num_epochs: 0", "0", "greater than 0"),
        ("adam_beta1: 1", "1.0", "less than 1"),
        ("seed: true", "`true`", "a whole number, not true or false"),
        ("seed: 4.5", "4.5", "a whole number"),
        ("seed: '4'", "'4'", "a whole number"),
        ("seed: {a: 1}", "a mapping", "a whole number"),
        ("sequence_len: 1", "1", "greater than or equal to 2"),
        ("sample_packing: 1", "1", "true or false"),
        ("sample_packing: 'true'", "'true'", "true or false"),
        ("output_dir: 5", "5", "text"),
        ("output_dir: no", "`false`", "text"),
        ("output_dir: [a]", "a list", "text"),
        ("lora_target_modules: 5", "5", "a list"),
        ("lr_scheduler_kwargs: [a]", "a list", "a mapping"),
        ("special_tokens: x", "'x'", "a mapping"),
        ("test_datasets: {path: x}", "a mapping", "a list"),
        ("test_datasets: x", "'x'", "a list"),
    ],
)
def test_a_value_of_the_wrong_kind_is_reported_in_plain_words_at_the_value(
    text: str, shown: str, expected: str
):
    name = text.partition(":")[0]
    problem = find_one(text + "\n")
    assert (problem.code, problem.key, problem.severity) == ("SD0005", name, "error")
    assert problem.place == Place(6, len(name) + 3)
    cause = problem.message.removeprefix(f"`{name}` cannot be ")
    got_shown, _, got_expected = cause.partition(": expected ")
    assert got_shown in (shown, shown.removesuffix(".0"))
    assert got_expected.startswith(expected)
    if problem.fix not in ("Remove the quotes.", "It is a list: put `- ` before each entry."):
        assert problem.fix.startswith(f"Change the value. `{name}` is: ")


def test_several_wrong_values_of_one_section_are_all_reported():
    assert find("seed: x\nnum_epochs: x\nmicro_batch_size: x\n") == [
        ("SD0005", "seed"),
        ("SD0005", "num_epochs"),
        ("SD0005", "micro_batch_size"),
    ]


def test_a_value_that_fits_no_branch_of_a_union_is_reported_once():
    assert find("bf16: [1]\n") == [("SD0005", "bf16")]
    assert find("lora_r: x\n") == [("SD0005", "lora_r")]


def test_a_long_value_is_shortened_and_stays_on_one_line():
    message = find_one(f"seed: 'a\n\n  {'b' * 200}'\n").message
    assert len(message) < 150
    assert "\n" not in message


# Words


@pytest.mark.parametrize("info", CHOICES, ids=lambda info: info.name)
def test_every_word_of_a_choice_is_accepted_and_no_other(info: KeyInfo):
    for word in built_words(info):
        problems = find(safe_dump({info.name: word, "val_set_size": 0.1}))
        assert not {code for code, _ in problems} & {"SD0004", "SD0005", "SD0006"}
    assert find(f"{info.name}: no-such-word\n") == [("SD0006", info.name)]


def test_a_misspelt_word_is_reported_with_the_nearest_and_all_that_are_allowed():
    problem = find_one("lr_scheduler: cosin\n")
    assert (problem.code, problem.place) == ("SD0006", Place(6, 15))
    assert problem.message == "`lr_scheduler` cannot be 'cosin'"
    assert problem.fix.startswith("Did you mean `cosine`? Allowed: `cosine`, `linear`,")


def test_a_word_beside_true_and_false_names_those_too():
    assert find_one("tf32: 'true'\n").fix == "Allowed: `auto`, or true or false without quotes."


# Required keys


def test_a_required_key_is_reported_with_its_meaning():
    problem = find_one("", "base_model: some/model\n" + DATASETS)
    assert (problem.code, problem.key, problem.place) == ("SD0007", "learning_rate", Place(1, 1))
    assert problem.fix == "Add `learning_rate:` (Peak learning rate)."


def test_a_required_key_that_is_null_is_not_set():
    assert find("", "base_model:\nlearning_rate: 1e-4\n" + DATASETS) == [("SD0007", "base_model")]


def test_an_empty_mapping_lacks_every_required_key():
    assert set(find("{}\n", "")) == {
        ("SD0007", "base_model"),
        ("SD0007", "learning_rate"),
        ("SD0151", "datasets"),
    }


# Nested entries


def test_a_wrong_value_of_an_entry_is_named_with_its_index():
    text = ENTRY + "split: 5\n  - path: other\n    type: [alpaca]\n"
    problems = check(text).diagnostics
    assert [(problem.code, problem.key, problem.place) for problem in problems] == [
        ("SD0005", "test_datasets.0.split", Place(9, 12)),
        ("SD0005", "test_datasets.1.type", Place(11, 11)),
    ]
    assert (
        problems[0].fix
        == "Change the value. `split` is: Split, with slices as in `train[:10%]`; default `train`."
    )


def test_a_missing_key_of_an_entry_is_reported_at_the_entry():
    problem = find_one("test_datasets:\n  - path: a\n    type: alpaca\n  - path: b\n")
    assert (problem.code, problem.key, problem.place) == ("SD0007", "test_datasets.1.type", Place(9, 5))


def test_the_only_entry_of_a_required_list_is_reported_once():
    assert find("    split: 5\n") == [("SD0005", "datasets.0.split")]
    assert find("", MODEL + "datasets: [{path: a}]\n") == [("SD0007", "datasets.0.type")]


@pytest.mark.parametrize("entry", ["word", "5", "[a]", "true"])
def test_an_entry_that_is_no_mapping_is_reported(entry: str):
    problem = find_one("", f"{MODEL}datasets:\n  - {entry}\n")
    assert (problem.code, problem.key, problem.place) == ("SD0005", "datasets.0", Place(4, 5))
    assert problem.message.endswith("expected a mapping")


def test_an_empty_list_of_data_is_reported():
    problem = find_one("", MODEL + "datasets: []\n")
    assert (problem.code, problem.key) == ("SD0005", "datasets")
    assert problem.message == "`datasets` cannot be an empty list: expected at least one entry"


def test_a_wrong_word_of_an_entry_is_reported_with_the_nearest():
    problem = find_one(ENTRY + "train_on_eos: turns\n")
    assert (problem.code, problem.key) == ("SD0006", "test_datasets.0.train_on_eos")
    assert "Did you mean `turn`?" in problem.fix


def test_a_wrong_value_deep_inside_a_mapping_is_reported_at_the_value():
    problem = find_one(ENTRY + "roles:\n      user: [human, 5]\n")
    assert (problem.code, problem.key, problem.place) == (
        "SD0005",
        "test_datasets.0.roles.user.1",
        Place(10, 21),
    )


def test_one_name_is_a_list_of_one():
    config = accept(ENTRY + "roles: {user: human}\n    roles_to_train: user\n")
    entry = config.data.test_datasets[0]
    assert entry.roles == {"user": ("human",)}
    assert entry.roles_to_train == ("user",)
