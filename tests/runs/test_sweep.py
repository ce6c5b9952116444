"""Sweeps of a tiny model: from the sweep file to the table, killed and resumed, with failures, with Optuna."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siredon import pipeline
from siredon.cli.options import read_words
from siredon.config.load import load_config
from siredon.errors import SiredonError
from siredon.sweep import run

LORA = {
    "adapter": "lora",
    "lora_alpha": 16,
    "lora_target_linear": True,
    "val_set_size": 4,
    "lr_scheduler": "constant",
}
GRID = "learning_rate: [1e-3, 3e-2]\nlora_r: [4, 8]\n"
TIMES = {"minutes", "tokens_per_second"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Trains in this process, which has loaded torch already; keeps the words of each run."""
    words: list[list[str]] = []

    def train_here(command: list[str], lock: int) -> tuple[int, str]:
        assert command[:4] == [sys.executable, "-m", "siredon", "train"]
        words.append(command[4:])
        (path,), layer = read_words(command[4:])
        try:
            pipeline.train(load_config(path, [layer])[0])
        except SiredonError as error:
            return 1, f"error: {error}\n"
        return 0, ""

    monkeypatch.setattr(run, "_run", train_here)
    # Most of the time of so short a run
    monkeypatch.setattr("siredon.train.run.plot_losses", lambda metrics, path: False)
    return words


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Trains nothing: writes what a run writes, with a loss made of its configuration."""
    words: list[list[str]] = []

    def write_run(command: list[str], lock: int) -> tuple[int, str]:
        words.append(command[4:])
        (path,), layer = read_words(command[4:])
        config, _ = load_config(path, [layer])
        folder = config.checkpoint.output_folder
        folder.mkdir(parents=True, exist_ok=True)
        row = {"step": 3, "loss": config.optimizer.learning_rate * 100 + config.batch.seed}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        record = {"config": config.model_dump(mode="json", by_alias=True), "finished": {"seconds": 6.0}}
        (folder / "run.json").write_text(json.dumps(record))
        return 0, ""

    monkeypatch.setattr(run, "_run", write_run)
    return words


@pytest.fixture
def sweep(write_config: Any, tmp_path: Path) -> Callable[..., bool]:
    """Sweeps the tiny model with a sweep file of this text."""

    def sweep_text(text: str, *settings: str, search: str = "grid", runs: int = 0, **keys: Any) -> bool:
        config = write_config(**{**LORA, "lora_r": 8, "max_steps": 3, "save_strategy": "no", **keys})
        (tmp_path / "sweep.yml").write_text(text)
        _, layer = read_words([str(config), *settings])
        return pipeline.sweep(str(config), layer, pipeline.Sweep(str(tmp_path / "sweep.yml"), search, runs))

    return sweep_text


def stop_before_run(monkeypatch: pytest.MonkeyPatch, here: list[list[str]], number: int) -> None:
    """Interrupts the sweep where it would start the run of this number, counted over the test."""
    trained = run._run

    def train_or_stop(command: list[str], lock: int) -> tuple[int, str]:
        if len(here) == number - 1:
            raise KeyboardInterrupt
        return trained(command, lock)

    monkeypatch.setattr(run, "_run", train_or_stop)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The records without times, and with folders as names."""
    lines = [json.loads(line) for line in (folder / "sweep" / "sweep.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in TIMES} | {"folder": Path(row["folder"]).name}
        for row in lines
    ]


def csv_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep" / "sweep.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in {*TIMES, "folder"}}
            for row in csv.DictReader(file)
        ]


@pytest.mark.long
def test_a_sweep_killed_in_the_middle_and_started_again_has_the_table_of_one_that_was_not(
    write_config: Any,
    sweep: Any,
    here: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
):
    # A run that is killed at its first checkpoint has most of its steps still before it.
    keys = {"max_steps": 30, "save_strategy": ..., "save_steps": 5, "eval_steps": 15, "logging_steps": 10}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert sweep(GRID, **keys, output_dir=str(whole))
    assert "best:    trial" in capsys.readouterr().out
    # The first three trials are taken over, for speed: a folder may be moved
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("0004-*"))
    lines = (whole / "sweep" / "sweep.jsonl").read_text().splitlines()
    (cut / "sweep" / "sweep.jsonl").write_text("\n".join(lines[:3]) + "\n")
    write_config(**{**LORA, "lora_r": 8, **keys, "output_dir": str(cut)})
    words = [sys.executable, "-m", "siredon", "train", str(tmp_path / "config.yml")]
    command = [*words, "--sweep", str(tmp_path / "sweep.yml")]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    last = cut / "sweep" / "0004-learning_rate=0.03,lora_r=8"
    deadline = time.monotonic() + 60
    while not list(last.glob("checkpoint-*/siredon.json")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert "finished" not in json.loads((last / "run.json").read_text())

    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": finished before") == 3
    assert f"going on from {last}/checkpoint-" in again.stderr
    assert rows_of(cut) == rows_of(whole)
    assert csv_of(cut) == csv_of(whole)

    rows = rows_of(whole)
    assert [(row["settings"]["learning_rate"], row["settings"]["lora_r"]) for row in rows] == [
        (1e-3, 4),
        (1e-3, 8),
        (3e-2, 4),
        (3e-2, 8),
    ]
    assert {row["metric_name"] for row in rows} == {"validation loss"}
    assert len({row["metric"] for row in rows}) == 4
    for row in rows:
        lines = (whole / "sweep" / row["folder"] / "metrics.jsonl").read_text().splitlines()
        assert row["metric"] == [json.loads(line)["eval_loss"] for line in lines if "eval_loss" in line][-1]
    best = min(rows, key=lambda row: row["metric"])
    assert f"best:    trial {best['number']}, validation loss {best['metric']:.4f}" in again.stdout
    assert str(cut / "sweep" / best["folder"]) in again.stdout


def test_a_trial_that_fails_is_recorded_and_retried_and_the_sweep_goes_on(
    sweep: Any, here: list[list[str]], tmp_path: Path, model_folder: Path, capsys: Any
):
    text = f"base_model: ['{tmp_path / 'model'}', '{model_folder}']\n"
    assert not sweep(text)
    first, second = rows_of(tmp_path / "out")
    assert (first["status"], first["exit_code"], first["metric"]) == ("failed", 1, None)
    assert first["error"].startswith("error: base_model: ")
    assert (second["status"], second["exit_code"]) == ("finished", 0)
    shown = capsys.readouterr().out
    assert "trial 1 failed: error: base_model" in shown
    assert "best:    trial 2" in shown
    (tmp_path / "model").symlink_to(model_folder)
    assert sweep(text)
    assert len(here) == 3
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["finished", "finished"]
    # The same model under another name
    assert len({row["metric"] for row in rows_of(tmp_path / "out")}) == 1


def test_what_is_finished_is_run_again_only_if_the_configuration_is_another(
    sweep: Any, stub: list[list[str]], tmp_path: Path
):
    folder = tmp_path / "out" / "sweep"
    assert sweep("seed: [1, 2]\n")
    assert sweep("seed: [1, 2]\n")
    assert len(stub) == 2
    # More values: the trials keep their runs, whatever their numbers are now
    assert sweep("seed: [3, 1]\n")
    assert [word for words in stub[2:] for word in words if word.startswith("seed=")] == ["seed=3"]
    assert [row["folder"] for row in rows_of(tmp_path / "out")] == ["0001-seed=3", "0001-seed=1"]
    # A trial whose record is lost is known by what it wrote
    (folder / "sweep.jsonl").unlink()
    assert sweep("seed: [1]\n")
    assert len(stub) == 3
    # Another configuration in the same folder starts anew, and the run before is kept
    assert sweep("seed: [1]\n", "learning_rate=1e-2")
    assert len(stub) == 4
    assert (folder / "earlier" / "0001-seed=1" / "run.json").is_file()
    # What was deleted is wanted again
    assert sweep("seed: [2]\n")
    shutil.rmtree(folder / "0002-seed=2")
    assert sweep("seed: [2]\n")
    assert len(stub) == 5


def test_equal_trials_are_run_once(sweep: Any, stub: list[list[str]], tmp_path: Path, capsys: Any):
    assert sweep("seed: [42, 7, 42.0, null]\n")
    assert len(stub) == 2
    assert [row["number"] for row in rows_of(tmp_path / "out")] == [1, 2]
    assert "the same as trial 1" in capsys.readouterr().err


def test_a_run_that_diverges_is_no_failure_and_never_the_best(
    sweep: Any, here: list[list[str]], tmp_path: Path, capsys: Any
):
    assert sweep(
        "learning_rate: [1e38, 1e-3]\n",
        optimizer="sgd",
        max_grad_norm=0,
        adapter=...,
        lora_r=...,
        lora_alpha=...,
        lora_target_linear=...,
    )
    first, second = rows_of(tmp_path / "out")
    assert (first["status"], first["metric"], second["status"]) == ("diverged", None, "finished")
    assert "best:    trial 2" in capsys.readouterr().out


def test_a_configuration_that_changes_under_a_sweep_is_noticed(
    sweep: Any, stub: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = run._run

    def change(command: list[str], lock: int) -> tuple[int, str]:
        path = tmp_path / "config.yml"
        path.write_text(path.read_text().replace("max_steps: 3", "max_steps: 2"))
        return trained(command, lock)

    monkeypatch.setattr(run, "_run", change)
    assert not sweep("seed: [1]\n")
    assert "was changed while the sweep ran" in rows_of(tmp_path / "out")[0]["error"]


def test_optuna_tries_as_many_trials_as_asked_for(
    sweep: Any, here: list[list[str]], tmp_path: Path, capsys: Any
):
    space = "learning_rate: {min: 1e-4, max: 1e-1, log: true}\n_: [{lora_r: 4}, {lora_r: 8}]\n"
    assert sweep(space, search="optuna", runs=3)
    rows = rows_of(tmp_path / "out")
    assert [(row["number"], row["status"]) for row in rows] == [
        (1, "finished"),
        (2, "finished"),
        (3, "finished"),
    ]
    assert len({row["settings"]["learning_rate"] for row in rows}) == 3
    best = min(rows, key=lambda row: row["metric"])
    assert f"best:    trial {best['number']}, validation loss {best['metric']:.4f}" in capsys.readouterr().out


def test_optuna_goes_on_where_it_stopped(
    sweep: Any, stub: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    space = "learning_rate: {min: 1e-4, max: 1e-1, log: true}\n_: [{lora_r: 4}, {lora_r: 8}]\n"
    search = {"search": "optuna", "runs": 15}
    assert sweep(space, **search)
    whole = rows_of(tmp_path / "out")
    assert len(stub) == len(whole) == 15
    trained = run._run
    stop_before_run(monkeypatch, stub, 28)
    with pytest.raises(KeyboardInterrupt):
        sweep(space, **search, output_dir=str(tmp_path / "cut"))
    monkeypatch.setattr(run, "_run", trained)
    assert sweep(space, **search, output_dir=str(tmp_path / "cut"))
    assert len(stub) == 30
    assert rows_of(tmp_path / "cut") == whole


def test_optuna_is_told_the_losses_of_the_runs_in_order(
    sweep: Any, stub: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from siredon.sweep.searches.optuna import OptunaSearch

    told: list[float | None] = []
    monkeypatch.setattr(OptunaSearch, "tell", lambda self, loss: told.append(loss))
    for _ in range(2):
        assert sweep("learning_rate: {min: 1e-4, max: 1e-1, log: true}\n", search="optuna", runs=2)
    losses = [row["metric"] for row in rows_of(tmp_path / "out")]
    assert told == [*losses, *losses]
    assert len(stub) == 2
