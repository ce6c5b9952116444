"""Python's garbage collected at chosen moments: memory of a GPU that dead cycles hold is free again."""

from __future__ import annotations

import gc
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class GarbageCollector(TrainerCallback):
    """Collects every few optimizer steps, or after each epoch and before each validation.

    Args:
        interval: Optimizer steps, or -1 for epochs and validations.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Collects if it is time."""
        is_due = control.should_evaluate if self.interval < 0 else state.global_step % self.interval == 0
        if is_due:
            gc.collect()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Collects after an epoch, and before a validation that comes with it."""
        if self.interval < 0:
            gc.collect()
