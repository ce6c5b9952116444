"""When the rounding of `qat` begins."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.log import note
from siredon.model.rounding import switch_rounding_


class RoundingStart(TrainerCallback):
    """Rounds from optimizer step `after + 1` on; before it, every number is that of a run without rounding.

    It follows from the number of steps alone, so a run that is gone on with rounds as it would have.

    Args:
        model: The model with the layers of `model.rounding.round_in_training_`.
        after: Optimizer steps before it.
    """

    def __init__(self, model: Any, after: int) -> None:
        self._model = model
        self._after = after
        self._is_on: bool | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A validation before the first step is of the model as that step will use it."""
        self._follow(state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Each step of the optimizer begins here, once for all of its micro-batches."""
        self._follow(state.global_step)

    def _follow(self, num_steps: int) -> None:
        is_on = num_steps >= self._after
        if is_on != self._is_on:
            switch_rounding_(self._model, on=is_on)
            if is_on:
                note(f"qat: rounding begins with step {num_steps + 1}")
        self._is_on = is_on
