"""A checkpoint after the first step: a full disk or a missing permission shows at once, not after hours."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class FirstCheckpoint(TrainerCallback):
    """Saves after the first optimizer step of a run."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for a checkpoint."""
        if state.global_step == 1:
            control.should_save = True
