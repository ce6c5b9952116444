"""Runs that are asked to end, at every kind of moment: all is saved, and going on gives the uninterrupted run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
    assert not (out / "interrupted.json").exists()
    assert "finished" in json.loads((out / "run.json").read_text())
