"""From a sweep file to trials: order, places, problems, and the words of a command line."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siredon.config.diagnostics import Place
from siredon.config.layers import Layer, Setting
from siredon.config.overrides import split_words
from siredon.errors import SiredonError
from siredon.pipeline import SEARCHES
from siredon.sweep.space import MAX_TRIALS, Range, Space, read_space
from siredon.sweep.trial import Trial, to_words

NOTHING = split_words([])[1]


@pytest.fixture
def read(tmp_path: Path):
    """Reads a sweep file of this text."""

    def read_text(text: str, *words: str, is_grid: bool = True) -> Space:
        path = tmp_path / "sweep.yml"
        path.write_text(text)
        return read_space(str(path), split_words(words)[1], is_grid=is_grid)

    return read_text


def grid(space: Space) -> list[dict[str, Any]]:
    assert space.problems == ()
    return [trial.values for trial in SEARCHES.load("grid")(space, 0, 0).known]


def found(space: Space) -> list[tuple[str, Place]]:
    return [(problem.code, problem.place) for problem in space.problems]


# Grids


def test_a_grid_is_the_product_in_the_order_of_the_file_the_last_key_fastest(read):
    lists = {"lora_r": [8, 16], "learning_rate": [1e-3, 1e-4, 1e-5], "optimizer": ["adamw_torch", "sgd"]}
    text = "".join(f"{key}: {values}\n" for key, values in lists.items())
    expected = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    assert grid(read(text)) == expected


def test_numbers_count_from_one_in_that_order(read):
    space = read("lora_r: [8, 16]\nseed: [1, 2]\n")
    assert [trial.number for trial in SEARCHES.load("grid")(space, 0, 0).known] == [1, 2, 3, 4]


def test_a_set_under_an_underscore_is_one_choice_among_the_others(read):
    text = "_:\n  - {lora_r: 8, lora_alpha: 16}\n  - {lora_r: 16, lora_alpha: 32}\nseed: [1, 2]\n"
    assert grid(read(text)) == [
        {"lora_r": 8, "lora_alpha": 16, "seed": 1},
        {"lora_r": 8, "lora_alpha": 16, "seed": 2},
        {"lora_r": 16, "lora_alpha": 32, "seed": 1},
        {"lora_r": 16, "lora_alpha": 32, "seed": 2},
    ]


def test_sets_are_alternatives_that_may_name_different_keys_and_hold_lists(read):
    text = "_:\n  - {}\n  - lora_target_modules: [q_proj, v_proj]\n  - trl: {beta: 0.1}\n"
    assert grid(read(text)) == [{}, {"lora_target_modules": ["q_proj", "v_proj"]}, {"trl.beta": 0.1}]


def test_a_single_value_is_a_list_of_one_and_a_list_in_a_list_is_a_value(read):
    text = "seed: 7\nlora_target_modules: [[q_proj], [q_proj, v_proj]]\nval_set_size:\n"
    assert grid(read(text)) == [
        {"seed": 7, "lora_target_modules": ["q_proj"], "val_set_size": None},
        {"seed": 7, "lora_target_modules": ["q_proj", "v_proj"], "val_set_size": None},
    ]


@pytest.mark.parametrize("text", ["datasets.0.path: [a, b]\n", "datasets:\n  0:\n    path: [a, b]\n"])
def test_a_nested_key_is_dotted_or_a_mapping(read, text: str):
    space = read(text)
    assert grid(space) == [{"datasets.0.path": "a"}, {"datasets.0.path": "b"}]
    assert space.grid_trial(0).settings[0].path == ("datasets", 0, "path")


def test_a_value_that_stands_twice_in_a_list_is_tried_once(read):
    assert grid(read("seed: [1, 2, 1]\n")) == [{"seed": 1}, {"seed": 2}]
    assert grid(read("_: [{seed: 1}, {seed: 1}, {seed: 2}]\n")) == [{"seed": 1}, {"seed": 2}]
    assert len(grid(read("bf16: [true, 1, '1', 1.0]\n"))) == 4


def test_every_setting_knows_its_key_and_value_in_the_file(read):
    (setting, _, joint) = (
        read("seed: [1, 2]\ntrl:\n  beta: [0.1]\n_:\n  - lora_r: 8\n").grid_trial(1).settings
    )
    assert (setting.value, setting.key, setting.place) == (2, Place(1, 1), Place(1, 11))
    assert (joint.value, joint.key, joint.place) == (8, Place(5, 5), Place(5, 13))


# Problems


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("{}\n", "SD0401", (1, 1)),
        ("seed: [1]\nlora_r: []\n", "SD0401", (2, 1)),
        ("_: []\n", "SD0401", (1, 1)),
        ("output_dir: [a]\n", "SD0402", (1, 1)),
        ("auto_resume_from_checkpoints: true\n", "SD0402", (1, 1)),
        ("_:\n  - {seed: 1, output_dir: a}\n", "SD0402", (2, 15)),
        ("include: [a.yml]\n", "SD0402", (1, 1)),
        ("seed: [1]\n_:\n  - {lora_r: 8, seed: 2}\n", "SD0403", (3, 17)),
        ("_:\n  - seed: 2\nseed: [1]\n", "SD0403", (3, 1)),
        ("trl.beta: [1]\ntrl: {beta: [2]}\n", "SD0403", (2, 7)),
        ("trl: [{beta: 2}]\ntrl.beta: [1]\n", "SD0403", (2, 1)),
        ("_:\n  - {trl: {beta: 1}, trl.beta: 2}\n", "SD0403", (2, 22)),
        ("attn_implementation: [eager]\nflash_attention: [true]\n", "SD0403", (2, 1)),
        ("_: 3\n", "SD0404", (1, 4)),
        ("_: {seed: 1}\n", "SD0404", (1, 4)),
        ("_:\n  - seed: 1\n  - 2\n", "SD0404", (3, 5)),
        ("seed: {min: 1, max: 3}\n", "SD0406", (1, 1)),
        ("model_config:\n  a-b: [1]\n", "SD0407", (2, 3)),
        ("trl..beta: [1]\n", "SD0407", (1, 1)),
        ("seed: [1]\nseed: [2]\n", "SD0002", (2, 1)),
        (f"seed: {list(range(40))}\nlora_r: {list(range(1, 27))}\n", "SD0408", (1, 1)),
    ],
    ids=lambda value: value.replace("\n", " ")[:30] if isinstance(value, str) else "",
)
def test_a_problem_of_the_file_is_located(read, text: str, code: str, place: tuple[int, int]):
    assert found(read(text)) == [(code, Place(*place))]


@pytest.mark.parametrize(
    "text",
    [
        "seed: §{min: 1}",
        "seed: §{max: 1}",
        "seed: {min: 3, max: §3}",
        "seed: {min: §a, max: 3}",
        "seed: {min: §true, max: 3}",
        "seed: {min: 1, max: §.inf}",
        "seed: {min: 1, max: §1" + "0" * 400 + "}",
        "seed: {min: §0, max: 3, log: true}",
        "seed: {min: 1, max: 3, log: §1}",
        "seed: {min: 1, max: 3, step: §0}",
        "seed: {min: 1, max: 3, step: §4}",
        "seed: {min: 1, max: 3, step: §1, log: true}",
        "seed: {min: 1, max: 3, lgo: §true}",
    ],
    ids=lambda text: text[:40],
)
def test_a_wrong_range_is_located(read, text: str):
    space = read(text.replace("§", "") + "\n", is_grid=False)
    assert found(space) == [("SD0405", Place(1, text.index("§") + 1))]
    assert space.axes == ()


def test_a_range_cannot_be_part_of_a_set(read):
    assert found(read("_:\n  - seed: {min: 1, max: 2}\n", is_grid=False)) == [("SD0405", Place(2, 11))]


def test_a_key_of_the_command_line_cannot_be_swept_too(read):
    space = read("seed: [1]\nlora_r: [8]\n", "lora_r=4")
    assert found(space) == [("SD0403", Place(2, 1))]
    assert "on the command line" in space.problems[0].message


def test_what_is_right_remains_beside_what_is_wrong(read):
    space = read("seed: [1, 2]\noutput_dir: [a]\nlora_r: []\n")
    assert len(space.problems) == 2
    assert [axis.name for axis in space.axes] == ["seed"]


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "\0"])
def test_a_file_that_cannot_be_read_has_its_problem_and_no_axis(read, text: str):
    space = read(text)
    assert [problem.code for problem in space.problems] == ["SD0001"]
    assert (space.axes, space.whole) == ((), False)


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["_", "seed", "trl", "trl.beta", "min", "max", "output_dir", "a-b", "datasets.0.path"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["min", "max", "step", "seed", "beta", ""]), inner, max_size=3
                )
            ),
            max_leaves=10,
        ),
    ),
    is_grid=st.booleans(),
)
def test_any_file_gives_axes_or_problems(values: dict[str, Any], is_grid: bool, tmp_path_factory: Any):
    import yaml

    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(yaml.safe_dump(values))
    space = read_space(str(path), NOTHING, is_grid=is_grid)
    assert space.problems or space.axes
    assert all(problem.place.line >= 1 for problem in space.problems)


# Random parts


def numbers(space: Space, runs: int, seed: int) -> list[int]:
    return [trial.number for trial in SEARCHES.load("random")(space, runs, seed).known]


def test_a_random_part_of_a_grid_has_no_trial_twice_and_keeps_order_and_numbers(read):
    space = read(f"seed: {list(range(10))}\nlora_r: {list(range(1, 11))}\n")
    drawn = numbers(space, 30, 1)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 30
    assert all(space.grid_trial(number - 1).number == number for number in drawn)
    assert drawn == numbers(space, 30, 1)
    assert drawn != numbers(space, 30, 2)
    assert set(numbers(space, 10, 1)) < set(drawn)


def test_a_part_that_is_larger_than_the_grid_is_the_grid(read):
    assert numbers(read("seed: [1, 2, 3]\n"), 9, 0) == [1, 2, 3]


def test_a_grid_too_large_to_list_can_be_drawn_from(read):
    text = "".join(f"k{number}: {list(range(10))}\n" for number in range(30))
    assert len(set(numbers(read(text, is_grid=False), 5, 0))) == 5


def draw(space: Space, runs: int = MAX_TRIALS) -> list[Any]:
    assert space.problems == ()
    return [trial.settings[0].value for trial in SEARCHES.load("random")(space, runs, 0).known]


def test_a_range_is_drawn_between_its_ends_evenly(read):
    values = draw(read("lora_dropout: {min: 0, max: 1}\n", is_grid=False))
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values)
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.03)


def test_a_log_range_is_drawn_evenly_by_ratio(read):
    values = draw(read("learning_rate: {min: 1e-5, max: 1e-3, log: true}\n", is_grid=False))
    assert all(1e-5 <= value <= 1e-3 for value in values)
    assert sum(value < 1e-4 for value in values) / len(values) == pytest.approx(0.5, abs=0.05)


def test_whole_numbers_are_equally_likely_ends_included(read):
    counts = Counter(draw(read("lora_r: {min: 1, max: 4}\n", is_grid=False)))
    assert set(counts) == {1, 2, 3, 4}
    assert all(isinstance(value, int) for value in counts)
    assert min(counts.values()) > 200
    assert set(draw(read("lora_r: {min: 1, max: 4, log: true}\n", is_grid=False))) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora_r: {min: 8, max: 30, step: 8}\n", {8, 16, 24}),
        ("lora_dropout: {min: 0, max: 0.3, step: 0.1}\n", {0.0, 0.1, 0.2, 0.3}),
    ],
)
def test_a_step_reaches_exactly_its_values(read, text: str, expected: set[float]):
    assert set(draw(read(text, is_grid=False))) == expected


def test_lists_and_ranges_are_drawn_together(read):
    space = read(
        "seed: [1, 2]\nlearning_rate: {min: 0.1, max: 0.2}\n_: [{lora_r: 8}, {lora_r: 9}]\n", is_grid=False
    )
    trials = SEARCHES.load("random")(space, 40, 3).known
    assert [trial.number for trial in trials] == list(range(1, 41))
    assert {trial.values["seed"] for trial in trials} == {1, 2}
    assert {trial.values["lora_r"] for trial in trials} == {8, 9}
    assert len({trial.values["learning_rate"] for trial in trials}) == 40


# Optuna


def quadratic(settings_of: dict[str, Any]) -> float:
    return (math.log10(settings_of["learning_rate"]) + 4) ** 2 + (settings_of["lora_r"] != 8)


def search_with_optuna(space: Space, runs: int, seed: int = 0) -> list[tuple[dict[str, Any], float]]:
    search = SEARCHES.load("optuna")(space, runs, seed)
    tried = []
    while (trial := search.ask()) is not None:
        loss = quadratic(trial.values)
        search.tell(loss)
        tried.append((trial.values, loss))
    assert len(tried) == runs == search.num_trials
    return tried


def test_optuna_finds_the_least_loss_and_does_the_same_again(read):
    space = read("learning_rate: {min: 1e-6, max: 1e-1, log: true}\nlora_r: [4, 8, 16]\n", is_grid=False)
    tried = search_with_optuna(space, 40)
    assert min(loss for _, loss in tried) < 0.05
    early, late = tried[:10], tried[-10:]
    assert sum(loss for _, loss in late) < sum(loss for _, loss in early) / 2
    assert tried == search_with_optuna(space, 40)
    assert tried != search_with_optuna(space, 40, seed=1)


def test_optuna_keeps_to_ends_steps_and_whole_numbers(read):
    text = "a: {min: 8, max: 30, step: 8}\nb: {min: 0.0, max: 0.3, step: 0.1}\nc: {min: 1, max: 3}\n"
    search = SEARCHES.load("optuna")(read(text, is_grid=False), 60, 0)
    seen: dict[str, set[Any]] = {"a": set(), "b": set(), "c": set()}
    while (trial := search.ask()) is not None:
        for key, value in trial.values.items():
            seen[key].add(value)
        search.tell(None if trial.number % 3 else float("inf"))
    assert seen == {"a": {8, 16, 24}, "b": {0.0, 0.1, 0.2, 0.3}, "c": {1, 2, 3}}
    assert all(isinstance(value, int) for value in seen["a"] | seen["c"])


def test_optuna_shows_every_value_for_the_check_beforehand(read):
    space = read("lora_r: [4, 8, 16]\nlora_dropout: {min: 0.1, max: 0.4}\nseed: 1\n", is_grid=False)
    known = [trial.values for trial in SEARCHES.load("optuna")(space, 2, 0).known]
    assert {values["lora_r"] for values in known} == {4, 8, 16}
    assert {values["lora_dropout"] for values in known} == {0.1, 0.4}
    assert {values["seed"] for values in known} == {1}


def test_without_optuna_it_is_said_how_to_install_it(read, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SiredonError, match=re.escape("pip install 'siredon[sweep]'")):
        SEARCHES.load("optuna")(read("seed: [1]\n"), 1, 0)


# Trials


def trial_of(*pairs: tuple[str, Any], number: int = 3) -> Trial:
    start = Place(1, 1)
    return Trial(number, tuple(Setting(tuple(key.split(".")), value, start, start) for key, value in pairs))


def test_a_folder_is_named_after_number_and_settings():
    assert (
        trial_of(("learning_rate", 0.001), ("lora_r", 8)).folder_name == "0003-learning_rate=0.001,lora_r=8"
    )
    assert trial_of().folder_name == "0003"


@pytest.mark.parametrize(
    "value", ["a/b", "../../x", "x" * 300, "a b", "ä\n\0", ".", "", "A", {"a": [1]}, "$(rm)", "-r", "~"]
)
def test_a_folder_name_is_safe_short_and_tells_values_apart(value: Any):
    name = trial_of(("base_model", value)).folder_name
    assert re.fullmatch(r"0003-[A-Za-z0-9_.+=,-]+", name)
    assert len(name) <= 85
    assert Path(name).name == name
    assert name != trial_of(("base_model", f"{value}!")).folder_name


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(
        ["yes", "1e-4", "null", "~", "", "a=b", "${HOME}", "# a", "\n", "\x85\u2028", "\U0001f600"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_a_run_reads_from_its_command_line_the_value_that_the_trial_has(value: Any):
    words = to_words(trial_of(("lr_scheduler_kwargs.any", value)).settings)
    rest, layer = split_words(words)
    assert rest == []
    assert [(setting.path, setting.value) for setting in layer.settings] == [
        (("lr_scheduler_kwargs", "any"), value)
    ]
    assert type(layer.settings[0].value) is type(value)


def test_a_path_with_numbers_is_read_again_as_it_was(read):
    words = to_words(read("datasets.0.path: [rows.jsonl]\n").grid_trial(0).settings)
    assert words == ['datasets.0.path="rows.jsonl"']
    assert split_words(words)[1].settings[0].path == ("datasets", 0, "path")


def test_a_layer_says_where_its_values_stand(read):
    space = read("seed: [1]\n")
    layer = space.grid_trial(0).as_layer(space.source)
    assert isinstance(layer, Layer)
    assert layer.source.name.endswith("sweep.yml")
    assert isinstance(read("lora_r: {min: 1, max: 2}\n", is_grid=False).axes[0], Range)
