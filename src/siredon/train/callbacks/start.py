"""Keeps beside LoRA's weights what its start did to the base."""

from __future__ import annotations

import torch
from transformers import TrainerState, TrainingArguments

from siredon.model.adapter_folder import START
from siredon.model.loftq import ROUNDED, ROUNDED_NOTE
from siredon.train.saving import CheckpointPart, Content


class StartKeeper(CheckpointPart):
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

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """Beside the weights of a checkpoint."""
        return self.files if state.is_world_process_zero else {}

    @property
    def files(self) -> dict[str, Content]:
        """What stands beside the weights."""
        start: dict[str, Content] = {START: self.start} if self.start else {}
        return start | ({ROUNDED: ROUNDED_NOTE} if self.is_rounded else {})
