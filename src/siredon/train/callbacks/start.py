"""Keeps beside LoRA's weights what its start did to the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.model.adapter_folder import write_start
from siredon.model.loftq import mark_rounded


class StartKeeper(TrainerCallback):
    """Writes start values, or that the base is rounded, into every checkpoint, and into the output folder.

    A checkpoint holds the trained values as they are, so that the run goes on from them exactly.  With the start beside
    them they can be turned into an adapter of the base itself.

    Args:
        start: Values by their names on disk, from before the first step; empty if the base gave none.
        is_rounded: The base is rounded to 4 bits.
    """

    def __init__(self, start: dict[str, torch.Tensor], *, is_rounded: bool = False) -> None:
        self.start = start
        self.is_rounded = is_rounded

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
        if not state.is_world_process_zero or not folder.is_dir():
            return
        if self.start:
            write_start(self.start, folder)
        if self.is_rounded:
            mark_rounded(folder)
