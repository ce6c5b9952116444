"""Axolotl's integrations, by their dotted paths."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.config.texts import MINIMAL, accept, check, find_one, read

from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.plugins import INTEGRATIONS, apply_plugins
from siredon.config.report import NOT_BUILT, Report
from siredon.config.schema import KeyInfo, key_homes

HOMES = key_homes()
PATHS = {name: f"axolotl.integrations.{name}.SomePlugin" for name in INTEGRATIONS}
SETTING = {name: integration.sets for name, integration in INTEGRATIONS.items() if integration.sets}
PARTS = {name: integration.part for name, integration in INTEGRATIONS.items() if integration.part}
IDLE = sorted(set(INTEGRATIONS) - set(SETTING) - set(PARTS))


def apply(text: str) -> tuple[dict[str, Any], list[Diagnostic]]:
    """The values of a text and of its plugins, and what they report."""
    document = read(text)
    report = Report(document)
    return apply_plugins(document.values, report), report.problems


def is_built(info: KeyInfo) -> bool:
    return info.status == "works"


# Known ones


def test_every_integration_is_of_keys_that_exist():
    for integration in INTEGRATIONS.values():
        assert set(integration.sets) <= set(HOMES)
        assert integration.part in {*HOMES, ""}
        assert not (integration.sets and integration.part)


@pytest.mark.parametrize("name", IDLE)
def test_one_whose_keys_switch_it_on_asks_for_nothing_by_itself(name: str):
    config = accept(f"plugins:\n  - {PATHS[name]}\n")
    assert config.plugins.model_fields_set <= {"plugins"}
    assert config.model_dump(exclude={"file"}) == accept().model_dump(exclude={"file"})


@pytest.mark.parametrize("name", sorted(SETTING))
def test_one_that_stands_for_keys_sets_them(name: str):
    values, problems = apply(f"plugins: [{PATHS[name]}]\n")
    assert problems == []
    assert {key: values[key] for key in SETTING[name]} == dict(SETTING[name])


@pytest.mark.parametrize("name", sorted(SETTING))
def test_a_key_that_is_set_so_and_not_built_is_refused_at_the_plugin(name: str):
    found = check(f"plugins:\n  - axolotl.integrations.liger.X\n  - {PATHS[name]}\n").diagnostics
    refused = {problem.key: problem.place for problem in found if problem.code == NOT_BUILT}
    assert refused == {key: Place(8, 5) for key in SETTING[name] if not is_built(HOMES[key])}


@pytest.mark.parametrize("name", sorted(SETTING))
@pytest.mark.parametrize("value", [False, "other", 0])
def test_keys_of_the_file_win(name: str, value: object):
    key = next(iter(SETTING[name]))
    values, _ = apply(f"plugins: [{PATHS[name]}]\n{key}: {value}\n")
    assert values[key] == value


@pytest.mark.parametrize("name", sorted(SETTING))
def test_a_key_of_the_file_that_is_empty_is_set(name: str):
    key, value = next(iter(SETTING[name].items()))
    values, _ = apply(f"{key}:\nplugins: [{PATHS[name]}]\n")
    assert values[key] == value


def test_a_plugin_that_the_file_turns_off_is_off():
    accept(
        "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\ncut_cross_entropy: false\n"
    )


@pytest.mark.parametrize("name", sorted(PARTS))
def test_one_that_is_on_by_itself_is_refused_until_its_part_is_built(name: str):
    text = f"plugins: [{PATHS['liger']}, {PATHS[name]}]\n"
    if is_built(HOMES[PARTS[name]]):
        accept(text)
        return
    problem = find_one(text)
    assert (problem.code, problem.key) == (NOT_BUILT, "plugins.1")
    assert problem.place == Place(6, text.index(PATHS[name]) + 1)
    assert PATHS[name] in problem.message


# Forms


def test_one_may_be_named_without_a_list():
    path = PATHS["cut_cross_entropy"]
    values, _ = apply(f"plugins: {path}\n")
    assert values["cut_cross_entropy"] is True
    assert accept(f"plugins: {PATHS['liger']}\n").file.plugins == (PATHS["liger"],)


def test_a_problem_of_one_without_a_list_stands_at_it():
    assert find_one("plugins: axolotl.integrations.nothing\n").place == Place(6, 10)
    problem = find_one(f"plugins: {PATHS['mora']}\n")
    assert (problem.key, problem.place) == ("plugins", Place(6, 10))


def test_the_folder_alone_is_enough():
    values, problems = apply("plugins: [axolotl.integrations.cut_cross_entropy]\n")
    assert problems == []
    assert values["cut_cross_entropy"] is True


def test_one_that_is_named_twice_is_one():
    assert apply(f"plugins: [{PATHS['swanlab']}, {PATHS['swanlab']}]\n")[0]["use_swanlab"] is True


@pytest.mark.parametrize("value", ["", "null", "[]", "~"])
def test_there_may_be_none(value: str):
    accept(f"plugins: {value}\n")


# Wrong ones


@pytest.mark.parametrize(
    "value", ["5", "0", "true", "false", "1.5", "{a: b}", "{}", "{axolotl.integrations.liger.X: 1}"]
)
def test_what_is_no_list_is_refused_once(value: str):
    problem = find_one(f"plugins: {value}\n")
    assert (problem.code, problem.key, problem.place) == ("SD0005", "plugins", Place(6, 10))


@pytest.mark.parametrize("value", ["5", "null", "true", "[]", "{a: b}", "[axolotl.integrations.liger.X]"])
def test_an_entry_that_is_no_text_is_refused_at_its_place(value: str):
    problem = find_one(f"plugins: [{PATHS['liger']}, {value}]\n")
    assert (problem.code, problem.key) == ("SD0005", "plugins.1")
    assert problem.place == Place(6, len(f"plugins: [{PATHS['liger']}, ") + 1)


@pytest.mark.parametrize("name", ["ligre", "ligerr", "Liger"])
def test_a_slip_of_an_integration_gets_the_right_one(name: str):
    problem = find_one(f"plugins:\n  - axolotl.integrations.{name}.LigerPlugin\n")
    assert (problem.code, problem.key, problem.place) == ("SD0016", "plugins.0", Place(7, 5))
    assert problem.fix.startswith("Did you mean `liger`? Known: ")
    assert all(f"`{known}`" in problem.fix for known in INTEGRATIONS)


@pytest.mark.parametrize(
    "path",
    [
        "my.own.Plugin",
        "liger",
        "axolotl",
        "axolotl.integration.liger.X",
        "integrations.liger.X",
        "''",
        " x",
        "é",
        "AXOLOTL.INTEGRATIONS.LIGER",
    ],
)
def test_code_of_others_is_refused_with_where_it_goes(path: str):
    problem = find_one(f"plugins: [{PATHS['liger']}, {path}]\n")
    assert (problem.code, problem.key) == ("SD0016", "plugins.1")
    assert "entry points" in problem.fix


@pytest.mark.parametrize(
    "path", ["axolotl.integrations.", "axolotl.integrations..X", "axolotl.integrations.zzz"]
)
def test_an_integration_that_nobody_knows_is_refused_with_those_that_are_known(path: str):
    problem = find_one(f"plugins: [{path}]\n")
    assert problem.code == "SD0016"
    assert problem.fix.startswith("Known: ")


def test_every_wrong_one_is_reported():
    found = check(f"plugins: [a, {PATHS['liger']}, 5, axolotl.integrations.b]\n").diagnostics
    assert [(problem.code, problem.key) for problem in found] == [
        ("SD0016", "plugins.0"),
        ("SD0005", "plugins.2"),
        ("SD0016", "plugins.3"),
    ]


def test_the_values_that_were_read_stay_as_they_are():
    document = read(MINIMAL + f"plugins: [{PATHS['swanlab']}]\n")
    before = repr(document.values)
    apply_plugins(document.values, Report(document))
    assert repr(document.values) == before
