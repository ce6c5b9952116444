"""Every trial is checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from siredon.cli.app import app
from siredon.config.overrides import split_words
from siredon.errors import ConfigError
from siredon.pipeline import SEARCHES
from siredon.sweep.check import Checker, ReadyTrial
from siredon.sweep.space import read_space

GOOD = "base_model: some/model\nlearning_rate: 1e-4\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\n"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Checks a grid over a configuration."""
    monkeypatch.chdir(tmp_path)

    def check_text(sweep: str, *words: str, config: str = GOOD) -> list[ReadyTrial]:
        Path("config.yml").write_text(config)
        Path("sweep.yml").write_text(sweep)
        layer = split_words(words)[1]
        space = read_space("sweep.yml", layer, is_grid=True)
        return Checker("config.yml", layer, space).check_all(SEARCHES.load("grid")(space, 0, 0).known)

    return check_text


def problems_of(caught: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [line.partition(": error ")[0] for line in str(caught.value).splitlines() if ": error " in line]


def test_problems_of_all_trials_and_of_both_files_are_shown_once_and_located(check):
    with pytest.raises(ConfigError) as caught:
        check(
            "seed: [1, 2, x]\nlora_rank: [8]\noutput_dir: [a]\nlearning_rate: [1e-4, -1]\n",
            config=GOOD + "sequence_len: 0\n",
        )
    assert problems_of(caught) == [
        "sweep.yml:1:14",
        "sweep.yml:2:1",
        "sweep.yml:3:1",
        "sweep.yml:4:23",
        "config.yml:6:15",
    ]
    assert str(caught.value).endswith("sweep.yml: 5 errors")
    assert caught.value.num_errors == 5


def test_a_rule_across_keys_is_kept_by_every_trial(check):
    with pytest.raises(ConfigError, match="SD0105"):
        check("bf16: [true, false]\nfp16: [true, false]\n")


def test_what_only_the_sweep_sets_need_not_be_in_the_file(check):
    config = GOOD.replace("learning_rate: 1e-4\n", "")
    assert len(check("learning_rate: [1e-4, 1e-3]\n", config=config)) == 2
    with pytest.raises(ConfigError, match=r"config\.yml"):
        check("seed: [1]\n", config=config)


def test_a_strict_file_says_at_once_what_a_sweep_would_set(check):
    with pytest.raises(ConfigError) as caught:
        check("seed: [1, 2]\n", config=GOOD + "strict: true\nseed: 1\noutput_dir: out\n")
    assert "`auto_resume_from_checkpoints` is not set in the file" in str(caught.value)
    assert caught.value.num_errors == 1
    keys = "strict: true\nseed: 1\noutput_dir: out\nauto_resume_from_checkpoints: false\n"
    assert len(check("seed: [1, 2]\n", config=GOOD + keys)) == 2


def test_a_warning_is_shown_once(check, capsys: pytest.CaptureFixture[str]):
    check("seed: [1, 2]\n", config=GOOD + "type_of_model: AutoModelForCausalLM\n")
    assert capsys.readouterr().err.count("warning SD0009") == 1


def test_the_folder_is_below_the_output_folder(check):
    assert {ready.folder for ready in check("seed: [1, 2]\n", "output_dir=here")} == {Path("here/sweep")}


def test_a_digest_is_of_the_configuration_not_of_its_spelling_or_folder(check):
    first, second = check("seed: [1, 2]\n")
    assert first.digest != second.digest
    (same,) = check("seed: 1.0\n", "output_dir=elsewhere")
    assert same.digest == first.digest
    (changed,) = check("seed: 1\n", "num_epochs=3")
    assert changed.digest not in (first.digest, second.digest)


@pytest.mark.parametrize(
    ("text", "seed"), [("", 42), ("seed: 7\n", 7), ("seed: x\n", 42), ("seed: true\n", 42)]
)
def test_a_search_is_seeded_by_the_configuration(tmp_path: Path, text: str, seed: int):
    (tmp_path / "config.yml").write_text(GOOD + text)
    (tmp_path / "sweep.yml").write_text("lora_r: [8]\n")
    layer = split_words([])[1]
    space = read_space(str(tmp_path / "sweep.yml"), layer, is_grid=True)
    assert Checker(str(tmp_path / "config.yml"), layer, space).seed == seed


# The command line


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", "config.yml", *arguments])
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sweep-runs", "3"],
        ["--sweep-search", "grid"],
        ["--sweep", "sweep.yml", "--sweep-search", "random"],
        ["--sweep", "sweep.yml", "--sweep-search", "optuna"],
        ["--sweep", "sweep.yml", "--sweep-search", "grid", "--sweep-runs", "2"],
        ["--sweep", "sweep.yml", "--sweep-runs", "0"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_a_wrong_command_line(arguments: list[str]):
    assert invoke(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep-search", "optima", "--sweep-runs", "2"], "Did you mean 'optuna'?"),
        (["seed=3"], "`seed` is also set on the command line"),
    ],
)
def test_what_cannot_be_swept_ends_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(GOOD)
    Path("sweep.yml").write_text("seed: [1, 2]\n")
    result = CliRunner().invoke(app, ["train", "config.yml", "--sweep", "sweep.yml", *arguments])
    assert message in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yml", "sweep.yml"]


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, ["train", "config.yml", "--sweep", "sweep.yml"])
    assert "without torchrun" in str(result.exception)
