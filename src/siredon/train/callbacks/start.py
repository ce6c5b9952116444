"""Keeps LoRA's start values beside its weights, where the start took them from the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.model.adapter_folder import write_start


class StartKeeper(TrainerCallback):
    """Writes the start values into every checkpoint, and into the output folder.

    A checkpoint holds the trained values as they are, so that the run goes on from them exactly.  With the start beside
    them they can be turned into an adapter of the base itself.

    Args:
        start: Values by their names on disk, from before the first step.
    """

    def __init__(self, start: dict[str, torch.Tensor]) -> None:
        self.start = start

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Beside the weights of a checkpoint."""
        self._write(state, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Where the weights will be."""
        self._write(state, Path(str(args.output_dir)))

    def _write(self, state: TrainerState, folder: Path) -> None:
        if state.is_world_process_zero and folder.is_dir():
            write_start(self.start, folder)
