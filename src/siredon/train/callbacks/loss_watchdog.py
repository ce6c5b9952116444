"""The loss watchdog: a run whose loss has blown up ends, with an error, before it costs more."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from siredon.errors import TrainingError
from siredon.train.trainer import SiredonTrainer


class LossWatchdog(TrainerCallback, ExportableState):
    """Ends a run after some optimizer steps in a row whose loss is above a threshold, or no number.

    A checkpoint of the last step is written first.  How many steps have failed is a part of every checkpoint.

    Args:
        trainer: Whose loss is watched.
        threshold: Loss per target token.
        patience: How many steps.
    """

    def __init__(self, trainer: SiredonTrainer, threshold: float, patience: int) -> None:
        self.trainer = trainer
        self.threshold = threshold
        self.patience = patience
        self.num_failed = 0
        self._last = 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"num_failed": self.num_failed}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Counts on from a checkpoint."""
        kept = state.stateful_callbacks.setdefault("LossWatchdog", self.state())
        self.num_failed = kept["attributes"]["num_failed"]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Looks at the loss; a step that was passed over has none."""
        if self.trainer.passes_over:
            return
        self._last = float(self.trainer.measure_step_loss())
        # NaN is not above anything, but neither is it below
        self.num_failed = 0 if self._last <= self.threshold else self.num_failed + 1
        if self.num_failed >= self.patience:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run once the checkpoint is there.

        Raises:
            TrainingError: The loss has been too high for too long.
        """
        self._check(state, f", kept as checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run with its last step, where `save_strategy: best` has written nothing.

        Raises:
            TrainingError: The loss has been too high for too long.
        """
        self._check(state, "")

    def _check(self, state: TrainerState, kept: str) -> None:
        if self.num_failed < self.patience:
            return
        raise TrainingError(
            f"the loss was above `loss_watchdog_threshold: {self.threshold:g}` for {self.num_failed} optimizer steps "
            f"in a row: {self._last:.4g} at step {state.global_step}{kept}",
            "Lower `learning_rate`, look at the rows with `siredon inspect`, or raise the threshold.",
        )
