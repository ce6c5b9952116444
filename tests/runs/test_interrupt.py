"""Runs that are asked to end, at every kind of moment: all is saved, and going on gives the uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of
from tests.runs.test_watching import lines_of, same, untimed

from siredon import pipeline
from siredon.errors import Interrupted
from siredon.train import continuation
from siredon.train.trainer import SiredonTrainer

KEYS = {
    **LORA,
    "lora_dropout": 0.2,
    "max_steps": ...,
    "num_epochs": 2,
    "gradient_accumulation_steps": 4,
    "val_set_size": 4,
    "generate_samples": True,
    "num_generation_samples": 2,
    "generation_max_new_tokens": 3,
    "load_best_model_at_end": True,
    "loss_watchdog_threshold": 1e4,
    "auto_resume_from_checkpoints": True,
    "save_total_limit": 1,
    "lr_scheduler": "reduce_lr_on_plateau",
    "cosine_min_lr_ratio": ...,
}
#: 20 training rows and 5 steps an epoch: validations at 2, 4, 6, 8, 10, or at both ends of an epoch.
RHYTHMS = {
    "steps": {"eval_steps": 2, "save_steps": 4},
    "epochs": {"eval_strategy": "epoch", "save_strategy": "epoch"},
}


class Sender:
    """Sends a signal in the middle of a method's call, then lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def arm(self, owner: Any, name: str, number: int, sent: signal.Signals = signal.SIGTERM) -> None:
        """At the call with this number."""
        original = getattr(owner, name)
        calls = 0

        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                signal.raise_signal(sent)
            return original(*args, **options)

        self.monkeypatch.setattr(owner, name, call)


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Sender:
    monkeypatch.setattr("siredon.train.run.plot_losses", lambda metrics, path: False)
    return Sender(monkeypatch)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Uninterrupted runs, by their rhythm, once they have been made."""
    return {}


@pytest.fixture
def uninterrupted(
    write_config: Any, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    def find(rhythm: str) -> Path:
        if rhythm not in whole:
            out = tmp_path_factory.mktemp(rhythm) / "out"
            pipeline.train(config_of(write_config(**KEYS, **RHYTHMS[rhythm], output_dir=str(out))))
            whole[rhythm] = out
        return whole[rhythm]

    return find


#: Where the signal comes: whose method, which call of it, in which rhythm, and after which step the run ends.
MOMENTS = {
    "a step": (SiredonTrainer, "training_step", 10, "steps", 3),
    "a step before a validation": (SiredonTrainer, "training_step", 8, "steps", 2),
    "a step before validation and save": (SiredonTrainer, "training_step", 13, "steps", 4),
    "the first batch of a validation": (SiredonTrainer, "_sum_rows", 5, "steps", 2),
    "a sample": (continuation, "continue_ids", 3, "steps", 2),
    "a save": (SiredonTrainer, "_save_checkpoint", 1, "steps", 2),
    "the last validation": (SiredonTrainer, "_sum_rows", 22, "steps", 10),
    "the last step": (SiredonTrainer, "training_step", 40, "steps", 10),
    "the last step of an epoch": (SiredonTrainer, "training_step", 18, "epochs", 5),
    "a validation between epochs": (SiredonTrainer, "_sum_rows", 6, "epochs", 5),
    "the save between epochs": (SiredonTrainer, "_save_checkpoint", 1, "epochs", 5),
}


def validations_of(folder: Path) -> list[tuple[int, float]]:
    """What the last checkpoint remembers, by which early stopping counts: a cut one must not be among them."""
    last = max(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    history = json.loads(last.read_text())["log_history"]
    return [(row["step"], row["eval_loss"]) for row in history if "eval_loss" in row]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_asked_to_end_goes_on_to_what_the_uninterrupted_one_is(
    write_config: Any, tmp_path: Path, sender: Sender, uninterrupted: Any, moment: str
):
    owner, name, number, rhythm, step = MOMENTS[moment]
    plain = uninterrupted(rhythm)
    if owner is continuation:
        from siredon.train.callbacks import samples as owner
    before = signal.getsignal(signal.SIGTERM)
    config = config_of(write_config(**KEYS, **RHYTHMS[rhythm]))
    sender.arm(owner, name, number)
    out = tmp_path / "out"
    with pytest.raises(Interrupted) as caught:
        pipeline.train(config)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (caught.value.by, caught.value.step) == ("SIGTERM", step)
    assert caught.value.checkpoint == str(out / f"checkpoint-{step}")
    assert json.loads((out / "interrupted.json").read_text())["step"] == step
    record = json.loads((out / "run.json").read_text())
    assert record["interrupted"]["by"] == "SIGTERM"
    assert "finished" not in record
    assert not (out / "adapter_model.safetensors").exists()
    pipeline.train(config)
    assert same(plain, out)
    assert untimed(plain) == untimed(out)
    assert lines_of(plain / "samples.jsonl") == lines_of(out / "samples.jsonl")
    assert validations_of(plain) == validations_of(out)
    assert not (out / "interrupted.json").exists()
    assert "finished" in json.loads((out / "run.json").read_text())


# Before there is anything to save


def moments_before_a_step() -> dict[str, tuple[Any, str, int]]:
    from siredon.data import cache
    from siredon.model import build
    from siredon.train import record

    return {
        "preparing": (cache, "save_table", 1),
        "the model": (build, "load_model", 1),
        "the folder": (record, "gather_facts", 1),
        "the first validation": (SiredonTrainer, "_sum_rows", 2),
        "the first step": (SiredonTrainer, "training_step", 2),
    }


@pytest.mark.parametrize(
    "moment", ["preparing", "the model", "the folder", "the first validation", "the first step"]
)
def test_before_the_first_step_the_run_ends_where_it_stands(
    write_config: Any, tmp_path: Path, sender: Sender, uninterrupted: Any, moment: str
):
    plain = uninterrupted("steps")
    config = config_of(write_config(**KEYS, **RHYTHMS["steps"]))
    sender.arm(*moments_before_a_step()[moment], sent=signal.SIGUSR1)
    out = tmp_path / "out"
    with pytest.raises(Interrupted) as caught:
        pipeline.train(config)
    assert (caught.value.by, caught.value.step, caught.value.checkpoint) == ("SIGUSR1", None, "")
    assert json.loads((out / "interrupted.json").read_text()) == {
        "by": "SIGUSR1",
        "step": None,
        "checkpoint": None,
    }
    assert not list(out.glob("checkpoint-*"))
    assert not list((tmp_path / "prepared").glob(".*-*"))
    pipeline.train(config)
    assert same(plain, out)
    assert untimed(plain) == untimed(out)


# What else must hold


def test_a_validation_that_is_cut_again_and_again_is_made_once(
    write_config: Any, tmp_path: Path, sender: Sender, uninterrupted: Any
):
    plain = uninterrupted("steps")
    config = config_of(write_config(**KEYS, **RHYTHMS["steps"]))
    for number in (5, 3, 1):  # of the run that validates at its start, then of those that make up for it
        with sender.monkeypatch.context() as patch:
            Sender(patch).arm(SiredonTrainer, "_sum_rows", number)
            with pytest.raises(Interrupted) as caught:
                pipeline.train(config)
            assert caught.value.step == 2
    out = tmp_path / "out"
    pipeline.train(config)
    assert same(plain, out)
    assert untimed(plain) == untimed(out)


def test_a_limit_in_time_lets_every_start_make_a_step(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("siredon.train.run.plot_losses", lambda metrics, path: False)
    keys = {**LORA, "lora_dropout": 0.2, "max_steps": 3, "save_strategy": "no", "save_only_model": True}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    keys["auto_resume_from_checkpoints"] = True
    config = config_of(write_config("b.yml", **keys, max_time="0.001"))
    for step in (1, 2):
        with pytest.raises(Interrupted) as caught:
            pipeline.train(config)
        assert (caught.value.by, caught.value.step, caught.value.setting) == ("max_time", step, "")
    pipeline.train(config)
    assert same(tmp_path / "plain", tmp_path / "out")
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "out")


def test_a_stream_that_is_asked_to_end_goes_on_where_it_was(
    write_config: Any, tmp_path: Path, sender: Sender
):
    from tests.runs.test_stream import write_texts

    keys = {
        **LORA,
        "datasets": ...,
        "pretraining_dataset": [{"path": write_texts(tmp_path, "one")}],
        "sequence_len": 64,
        "sample_packing": True,
        "streaming_multipack_buffer_size": 16,
    }
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    config = config_of(write_config("b.yml", **keys))
    sender.arm(SiredonTrainer, "training_step", 3)
    with pytest.raises(Interrupted) as caught:
        pipeline.train(config)
    assert caught.value.step == 2
    assert caught.value.setting == "auto_resume_from_checkpoints=true"
    pipeline.train(config_of(write_config("c.yml", **keys, auto_resume_from_checkpoints=True)))
    assert same(tmp_path / "plain", tmp_path / "out")
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "out")


# As processes


def start(config: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "siredon", "train", str(config), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: subprocess.Popen[str], is_there: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_there():
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def has_lines(path: Path, number: int) -> Callable[[], bool]:
    return lambda: path.is_file() and path.read_text().count("\n") >= number


LONG = {**LORA, "max_steps": 100_000, "num_epochs": 100_000, "save_strategy": "no"}


@pytest.mark.long
def test_the_command_ends_with_status_75_and_says_how_to_go_on(write_config: Any, tmp_path: Path):
    config = write_config(**LONG)
    run = start(config)
    wait_for(run, has_lines(tmp_path / "out" / "metrics.jsonl", 3))
    run.send_signal(signal.SIGUSR1)
    _, shown = run.communicate(timeout=60)
    assert run.returncode == 75, shown
    assert "SIGUSR1: the step is finished, everything is saved, then the run ends" in shown
    step = json.loads((tmp_path / "out" / "interrupted.json").read_text())["step"]
    assert f"interrupted by SIGUSR1 after step {step:,}" in shown
    assert shown.endswith(f"to go on: siredon train {config} auto_resume_from_checkpoints=true\n")
    assert "Traceback" not in shown

    # Again, by the clock: with a resume the file is gone, and one step is enough
    run = start(config, "--auto-resume-from-checkpoints", "--max-time", "0.01")
    _, shown = run.communicate(timeout=120)
    assert run.returncode == 75, shown
    assert f"interrupted by max_time after step {step + 1:,}" in shown
    assert json.loads((tmp_path / "out" / "interrupted.json").read_text())["step"] == step + 1


@pytest.mark.long
@pytest.mark.parametrize("quits", [False, True], ids=["once", "twice"])
def test_a_second_ctrl_c_quits_at_once(write_config: Any, tmp_path: Path, quits: bool):
    # A step of seconds, in which both signals come
    rows = [{"path": "_synthetic", "type": "_synthetic", "length": 2_000, "sequence_length": 64}]
    steps = {"datasets": rows, "gradient_accumulation_steps": 1_000} if quits else {}
    run = start(write_config(**{**LONG, **steps}))
    folder = tmp_path / "out"
    wait_for(run, has_lines(folder / "metrics.jsonl", 1))
    run.send_signal(signal.SIGINT)
    if quits:
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
    _, shown = run.communicate(timeout=60)
    assert run.returncode == (130 if quits else 75), shown
    assert "Ctrl-C again quits at once" in shown
    assert bool(list(folder.glob("checkpoint-*"))) is not quits
    assert "Traceback" not in shown


@pytest.mark.long
def test_a_signal_to_one_of_two_ranks_ends_both_at_the_same_step(write_config: Any, tmp_path: Path):
    keys = {
        **LORA,
        "lora_dropout": 0.2,
        "max_steps": 40,
        "num_epochs": 20,
        "val_set_size": 4,
        "eval_steps": 1,
    }
    keys |= {"save_strategy": "no", "auto_resume_from_checkpoints": True}
    train_on_two_ranks(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain")))
    config = write_config("b.yml", **keys)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.Popen(
        [*command, "-m", "siredon", "train", str(config)], stderr=subprocess.PIPE, text=True
    )
    wait_for(run, has_lines(out / "metrics.jsonl", 5))
    # The second one: not the one that writes
    os.kill(max(children_of(run.pid)), signal.SIGUSR1)
    _, shown = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "exitcode  : 75" in shown
    facts = json.loads((out / "interrupted.json").read_text())
    assert facts["by"] == "SIGUSR1"
    assert Path(facts["checkpoint"], "rng_state_1.pth").is_file()
    train_on_two_ranks(config)
    assert same(tmp_path / "plain", out)
    assert untimed(tmp_path / "plain") == untimed(out)


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# What the documentation shows


def scripts_of_slurm() -> list[str]:
    text = (ROOT / "docs" / "interruptions.md").read_text()
    return [block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "#SBATCH" in block]


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1], ids=["one process", "torchrun"])
def test_a_job_of_slurm_passes_the_signal_on_and_is_queued_again(
    write_config: Any, tmp_path: Path, number: int
):
    config = write_config(**LONG, output_dir="model-out")
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "siredon": f'exec {sys.executable} -m siredon "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "scontrol": 'echo "$@" >> queued',
    }
    for name, line in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{line}\n")
        (tools / name).chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(scripts_of_slurm()[number].replace("per-node 8", "per-node 2"))
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    assert config.parent == tmp_path
    job = subprocess.Popen(
        ["bash", str(script)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(job, has_lines(tmp_path / "model-out" / "metrics.jsonl", 3))
    job.send_signal(signal.SIGUSR1)
    _, shown = job.communicate(timeout=120)
    assert job.returncode == 0, shown
    assert (tmp_path / "queued").read_text() == "requeue 17\n"
    assert list((tmp_path / "model-out").glob("checkpoint-*"))


@pytest.mark.long
def test_a_job_whose_run_fails_is_not_queued_again(tmp_path: Path):
    script = scripts_of_slurm()[0].replace("siredon train", "false")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, check=False)
    assert done.returncode == 1
