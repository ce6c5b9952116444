"""What the log says of speed, by a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.train.steps import CPU
from transformers import TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.logging import LoggingSection
from siredon.train.callbacks import progress
from siredon.train.callbacks.progress import Progress


class Run:
    """Stands for a training of 100 tokens a step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.tokens = 0.0, 0
        patch.setattr(progress.time, "perf_counter", lambda: self.now)
        self.given: Any = (TrainingArguments(report_to=[]), TrainerState(max_steps=10), TrainerControl())
        self.shown = Progress(CPU, LoggingSection(), lambda: (self.tokens, 0))
        self.shown.on_train_begin(*self.given)

    def step(self, seconds: float) -> None:
        self.now += seconds
        self.tokens += 100
        self.given[1].global_step += 1
        self.shown.on_step_end(*self.given)

    def log(self, seconds: float, **logs: float) -> dict[str, float]:
        self.now += seconds
        self.shown.on_log(*self.given, logs=logs)
        return logs


def test_the_wait_for_the_device_in_which_the_loss_is_read_is_time_of_training(
    monkeypatch: pytest.MonkeyPatch,
):
    run = Run(monkeypatch)
    run.step(1.0)  # The host is done
    assert run.log(3.0, loss=1.0, learning_rate=0.1)["tokens_per_second"] == 25.0
    run.step(1.0)
    run.step(1.0)
    assert run.log(2.0, loss=1.0, learning_rate=0.1)["tokens_per_second"] == 50.0


def test_validation_and_saving_are_none_of_it(monkeypatch: pytest.MonkeyPatch):
    run = Run(monkeypatch)
    run.step(1.0)
    run.log(1.0, loss=1.0, learning_rate=0.1)
    run.log(50.0, eval_loss=1.0)
    run.now += 70.0
    run.shown.on_save(*run.given)
    run.step(4.0)
    assert run.log(0.0, loss=1.0, learning_rate=0.1)["tokens_per_second"] == 25.0
