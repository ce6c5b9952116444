"""The learning rate over the run: a part of the shelf `schedules`, and restarts over it.

A schedule advances once per optimizer step that is made: not per micro-batch, not per rank, and not at a step that
fp16 skips because its gradients overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from siredon.config.sections.optimizer import ScheduleSection
from siredon.config.shelves import SCHEDULES
from siredon.errors import CheckpointError


@dataclass(frozen=True)
class Span:
    """What a schedule is stretched over.

    Args:
        num_steps: Optimizer steps of the run.
        num_warmup_steps: How many of them warm up.
        peak: Peak learning rate of the optimizer as a whole; groups of parameters may have their own.
        falls: Whether a lower metric is the better one, for a schedule that watches it.
    """

    num_steps: int
    num_warmup_steps: int
    peak: float
    falls: bool = True

    def rate_of(self, min_lr: float | None, min_lr_rate: float | None) -> float:
        """The lowest learning rate as a part of the peak, from either of two settings."""
        if min_lr is not None:
            return float(min_lr) / self.peak
        return float(min_lr_rate or 0.0)


@dataclass(frozen=True)
class ScheduleBuilder:
    """Builds the schedule when the optimizer is there.

    Args:
        section: The shape.
        peak: `learning_rate`.
        falls: Whether a lower metric is the better one.
    """

    section: ScheduleSection
    peak: float
    falls: bool = True

    def build(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """The scheduler of a run of `num_steps` optimizer steps.

        Raises:
            TrainingError: The run is too short for the settings.
        """
        section = self.section
        span = Span(num_steps, section.num_warmup_steps(num_steps), self.peak, self.falls)
        scheduler: LRScheduler = SCHEDULES.load(section.lr_scheduler)(optimizer, span, **section.settings)
        if section.jagged_restart_steps is None:
            return scheduler
        restarts = Restarts(
            section.jagged_restart_steps, section.num_restart_warmup_steps, section.num_restart_anneal_steps
        )
        return JaggedRestarts(optimizer, scheduler, restarts)

    def rate_at(self, num_steps: int, step: int) -> float:
        """The learning rate of step `step`, counted from 0, in a run of `num_steps`: that of the closed form.

        The peak where a schedule has none: what it does depends on the validations.
        """
        nothing = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=self.peak)
        scheduler: Any = self.build(nothing, num_steps)
        scale = 1.0
        if isinstance(scheduler, JaggedRestarts):
            scale, scheduler = scheduler.restarts.scale(step), scheduler.inner
        return float(
            self.peak * scale * (scheduler.lr_lambdas[0](step) if isinstance(scheduler, LambdaLR) else 1.0)
        )


def continue_curve_(scheduler: LRScheduler) -> None:
    """Sets the learning rate of the next step to that of the curve, where a saved one is of a run of another length.

    A schedule without a closed form is left as it is.
    """
    if isinstance(scheduler, JaggedRestarts):
        scheduler.inner.last_epoch -= 1
    elif not isinstance(scheduler, LambdaLR):
        return
    scheduler.last_epoch -= 1
    scheduler.step()


def show_skipped_steps_(optimizer: Optimizer) -> None:
    """Lets loss scaling skip the steps of an optimizer that would skip them by itself.

    A fused AdamW looks at the overflow inside its own step.  Accelerate then takes that step for one that was made,
    and the learning rate would advance.
    """
    inner: Any = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if "_step_supports_amp_scaling" in vars(inner):
        inner._step_supports_amp_scaling = False


@dataclass(frozen=True)
class Restarts:
    """By how much the learning rate is lowered around restarts.

    Args:
        period: Optimizer steps between restarts.
        warmup: Optimizer steps over which it comes back after each; the start of the run is none.
        anneal: Optimizer steps over which it goes down before each.
    """

    period: int
    warmup: int
    anneal: int

    #: The rest of the learning rate at a restart: no step is made in vain.
    LEAST = 1e-3

    def scale(self, step: int) -> float:
        """The factor at optimizer step `step`, counted from 0.

        With s steps behind the last restart, warm-up w, decay a and period p: `s / w` for s < w, else `(p - s) / a`
        for s > p - a, else 1; this is drawn from 0..1 into 0.001..1.  Source: ReLoRA (Lialin et al. 2023).
        """
        since = step % self.period
        part = 1.0
        if step >= self.period and since < self.warmup:
            part = since / self.warmup
        elif since > self.period - self.anneal:
            part = (self.period - since) / self.anneal
        return self.LEAST + (1 - self.LEAST) * part


class JaggedRestarts(LRScheduler):
    """Another schedule, lowered around restarts.

    Args:
        optimizer: Whose learning rates are set.
        inner: The other schedule; its rate at a step depends on nothing but the step.
        restarts: By how much it is lowered.
    """

    def __init__(self, optimizer: Optimizer, inner: LRScheduler, restarts: Restarts) -> None:
        self.inner = inner
        self.restarts = restarts
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group."""
        scale = self.restarts.scale(self.last_epoch)
        return [rate * scale for rate in self.inner.get_last_lr()]

    def step(self, epoch: int | None = None) -> None:
        """Moves both on by a step.  The first call is the one by which a scheduler sets itself up."""
        if self.last_epoch >= 0:
            self.inner.step()
        super().step()

    def state_dict(self) -> dict[str, Any]:
        """Where both are."""
        own = {
            name: value for name, value in super().state_dict().items() if name not in ("inner", "restarts")
        }
        return {"own": own, "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            CheckpointError: It is the state of a schedule without restarts.
        """
        if "own" not in state_dict:
            raise CheckpointError(
                "jagged_restart_steps: the checkpoint is of a run without restarts of the learning rate",
                "Remove `jagged_restart_steps`, or start anew.",
            )
        super().load_state_dict(state_dict["own"])
        self.inner.load_state_dict(state_dict["inner"])
