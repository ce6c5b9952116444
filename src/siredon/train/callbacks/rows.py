"""Rows of a trained weight that must not change, whatever the optimizer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.model.freezing import Partial


class RowKeeper(TrainerCallback):
    """Puts rows back after every step of the optimizer.

    A gradient of zero is not enough: weight decay shrinks a row without any, and an optimizer that looks at the
    whole matrix, as Muon does, moves every row.

    Args:
        partial: Weights of which some rows are trained.
    """

    def __init__(self, partial: Sequence[Partial]) -> None:
        self.partial = partial
        self._kept: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Copies the rows, which a checkpoint has as they were at the start."""
        self._kept = []
        for part in self.partial:
            places = part.frozen.nonzero().flatten().to(part.weight.device)
            self._kept.append((part.weight, places, part.weight.detach().index_select(0, places)))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Puts the rows back."""
        with torch.no_grad():
            for weight, places, rows in self._kept:
                weight.index_copy_(0, places, rows)
