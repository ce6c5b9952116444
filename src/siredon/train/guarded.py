"""`Trainer` of transformers with a guard over its optimizer steps, who can pass over a batch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from siredon.train.memory_guard import MemoryGuardedTrainer


class StepGuard(TrainerCallback):
    """What `callbacks/bad_step.py` does, and where the trainer asks for it."""

    #: Code of the last step, on the device; see `train/bad_steps.py`.
    code: torch.Tensor

    def is_passed_over(self, step: int) -> bool:
        """Whether the batch of a step, counted from 1, is drawn and not trained on."""
        raise NotImplementedError

    def begin_step_(self, code: int) -> None:
        """Follows the last step, whose code was read with what is read anyway."""
        raise NotImplementedError

    def end_step_(self) -> None:
        """Follows the step that was just made."""
        raise NotImplementedError

    def count_unlogged_(self) -> int:
        """How many steps since the last log line have no loss in it; from now on none."""
        raise NotImplementedError


class GuardedTrainer(MemoryGuardedTrainer):
    """Lets the guard see each step, and passes over those that it names: no forward pass, no update.

    Args:
        options: What `transformers.Trainer` takes.
    """

    control: Any

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: Looks at each step, if any does.
        self.guard: StepGuard | None = None
        #: Norm of the last step's gradient, before clipping, on the device.
        self.grad_norm = torch.zeros((), device=self.args.device)
        #: The micro-batches of this step, on this rank.
        self.batches: list[Any] = []
        #: Whether this step is passed over.
        self.passes_over = False

    def begin_step_(self, batches: list[Any], code: int) -> None:
        """Begins a step, once the guard has followed the one before.

        Args:
            batches: Its micro-batches.
            code: Of the step before.
        """
        if self.guard is None:
            return
        self.guard.begin_step_(code)
        self.batches = batches
        self.passes_over = self.guard.is_passed_over(self.state.global_step + 1)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass, unless the step is passed over."""
        if self.passes_over:
            return torch.zeros((), device=self.args.device)
        return super().training_step(*args, **options)

    def _clip_grad_norm(self, model: Any) -> Any:
        return (
            torch.zeros((), device=self.args.device) if self.passes_over else super()._clip_grad_norm(model)
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if self.passes_over:
            return grad_norm
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm = torch.as_tensor(norm, device=self.args.device)
        return norm

    def _maybe_log_save_evaluate(self, tr_loss: Any, *args: Any, **options: Any) -> None:
        guard, logs = self.guard, self.control.should_log
        if guard is not None:
            guard.end_step_()
            if logs:
                self._leave_out_(tr_loss, guard.count_unlogged_())
        super()._maybe_log_save_evaluate(tr_loss, *args, **options)
        if logs:
            # `Trainer` subtracts it from itself, which leaves a NaN where it is
            tr_loss.zero_()

    def _leave_out_(self, tr_loss: torch.Tensor, num_missing: int) -> None:
        """Makes the mean over the steps of a log line one over those that have a loss; NaN if none has."""
        num_steps = self.state.global_step - self._globalstep_last_logged
        num_left = num_steps - num_missing
        if num_missing and num_steps:
            tr_loss.mul_(num_steps / num_left if num_left > 0 else float("nan"))
