"""A checkpoint on request: whenever a file appears in the output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.log import note


class RequestedCheckpoint(TrainerCallback):
    """Looks for a file every few steps, saves if it is there, and removes it when the checkpoint is written.

    The first rank looks, and the others do as it says.

    Args:
        path: The file.
        interval: Optimizer steps between two looks.
    """

    def __init__(self, path: Path, interval: int) -> None:
        self.path = path
        self.interval = interval
        self._is_asked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Looks."""
        if state.global_step % self.interval:
            return
        found = [state.is_world_process_zero and self.path.exists()]
        if args.world_size > 1:
            broadcast_object_list(found)
        self._is_asked = found[0]
        if self._is_asked:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Removes the file."""
        if not self._is_asked:
            return
        self._is_asked = False
        if state.is_world_process_zero:
            self.path.unlink(missing_ok=True)
            note(f"checkpoint-{state.global_step} written, as {self.path.name} asked")
