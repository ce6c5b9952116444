"""Where a run ends that is asked to: at the end of a step, or in a validation, which is then made again.

What is left to do at the step is a part of the checkpoint, and is done first when the run goes on.  So its logs have
no gap and no repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from siredon.distributed.ranks import largest_of_ranks, num_ranks
from siredon.errors import Interrupted
from siredon.train.interrupt import Interruption, name_code

_NAME = "Interrupter"


class Interrupter(TrainerCallback, ExportableState):
    """Looks whether the run is to end, and has everything saved.  The last of all callbacks: the others have decided.

    Several ranks end at the same step: they agree by one number each, once a step and once a batch of a validation.

    Args:
        interruption: What asks for the end.
        make_due: Makes the validation that the checkpoint before had not.
    """

    def __init__(self, interruption: Interruption, make_due: Callable[[], None]) -> None:
        self.interruption = interruption
        self.make_due = make_due
        self.is_stopping = False
        self.due_evaluation = False
        self.due_save = False
        self.by = ""
        self._is_epoch_over = False
        self._has_just_saved = False
        self._saved: tuple[int, bool, bool] | None = None
        self._mark = 0.0  # when the last step ended, with what came after it
        self._event = 0.0  # when the last callback before a save ran

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        due = {"due_evaluation": self.due_evaluation, "due_save": self.due_save}
        return {"args": {}, "attributes": due}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Makes up for a validation that was cut.  A run on one rank can still end at any moment."""
        self._mark = self._event = time.monotonic()
        due = state.stateful_callbacks.setdefault(_NAME, self.state())["attributes"]
        if num_ranks() > 1:
            self.interruption.defer()
        if due["due_evaluation"]:
            self.interruption.defer()
            self._saved = (state.global_step, True, due["due_save"])
            self.due_save = due["due_save"]
            self._is_epoch_over = True
            self.make_due()
            self._mark = time.monotonic()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Another epoch."""
        self._is_epoch_over = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Looks."""
        self._event = time.monotonic()
        self.interruption.note_step(self._event - self._mark)
        self.interruption.defer()
        self._look(args, state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Looks, and adds what the end of an epoch asks for to what is left to do."""
        self._event = time.monotonic()
        self._is_epoch_over = True
        if self.is_stopping:
            self.stop_(args, state, control)
        else:
            self._look(args, state, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The time of saving begins after it."""
        self._event = time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The time of saving begins after it."""
        self._event = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Remembers what is in the checkpoint."""
        self.interruption.note_save(time.monotonic() - self._event)
        self._saved = self._now(state)
        self._has_just_saved = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What is left is short, and makes the run's result: it comes to its end."""
        self.interruption.defer()

    def check_evaluation(self, args: TrainingArguments) -> None:
        """Looks, between two batches of a validation; to be asked by all ranks.

        Raises:
            Interrupted: The run is to end.
        """
        code = self._agree(args)
        if code:
            raise Interrupted(name_code(code))

    def stop_(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, by: str = ""
    ) -> None:
        """Turns what is asked for at this step into what is left to do, and asks for a checkpoint and the end.

        The last step of an epoch waits for what its end asks for.
        """
        self.is_stopping = True
        self.by = by or self.by
        self.due_evaluation = self.due_evaluation or control.should_evaluate
        self.due_save = self.due_save or control.should_save
        control.should_evaluate = False
        control.should_training_stop = True
        args.save_only_model = False
        is_last = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        waits = is_last and not self._is_epoch_over
        control.should_save = not waits and self._saved != self._now(state)

    def can_leave(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> bool:
        """Whether the run ends here, once logging, validation and saving are over; to be asked by all ranks."""
        self._mark = time.monotonic()
        if self._has_just_saved and not self.is_stopping and not control.should_training_stop:
            self._look(args, state, control)
        self._has_just_saved = False
        return self.is_stopping and self._saved == self._now(state)

    def _look(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        code = self._agree(args)
        if code and not self._ends_anyway(args, control):
            self.stop_(args, state, control, name_code(code))

    def _ends_anyway(self, args: TrainingArguments, control: TrainerControl) -> bool:
        """Whether the run is over, with no validation left that may take long."""
        validates = control.should_evaluate or (args.eval_strategy == "epoch" and not self._is_epoch_over)
        return control.should_training_stop and not validates

    def _agree(self, args: TrainingArguments) -> int:
        return largest_of_ranks(self.interruption.find_code(), args.device)

    def _now(self, state: TrainerState) -> tuple[int, bool, bool]:
        return state.global_step, self.due_evaluation, self.due_save


def has_due_evaluation(state: TrainerState) -> bool:
    """Whether the validation of a checkpoint's step is still to be made."""
    kept = state.stateful_callbacks.get(_NAME, {})
    return bool(kept.get("attributes", {}).get("due_evaluation", False))
