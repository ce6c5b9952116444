"""`lr_scheduler: one_cycle`: up from a low rate to the peak and down to almost zero, with momentum the other way.

Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2018.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer,
    span: Span,
    *,
    pct_start: float | None = None,
    cycle_momentum: bool = True,
    three_phase: bool = False,
    **shape: Any,
) -> LRScheduler:
    """`torch.optim.lr_scheduler.OneCycleLR`, each group of parameters up to a peak of its own.

    Args:
        optimizer: Whose learning rates and momentum are set.
        span: The run.
        pct_start: Part of the run that goes up; by default the warm-up.
        cycle_momentum: Momentum (the first beta of Adam) goes from `max_momentum` to `base_momentum` and back, where
            the optimizer has any.
        three_phase: Down to the first rate as fast as up from it, and only then on to almost zero.
        shape: `anneal_strategy`, `base_momentum`, `max_momentum`, `div_factor`, `final_div_factor`.
    """
    part = span.num_warmup_steps / span.num_steps if pct_start is None else pct_start
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=span.num_steps,
        pct_start=_avoid_empty_phases(part, span.num_steps, three_phase=three_phase),
        three_phase=three_phase,
        cycle_momentum=cycle_momentum and _has_momentum(optimizer),
        **shape,
    )


def _avoid_empty_phases(part: float, num_steps: int, *, three_phase: bool) -> float:
    """A rise that has its first and last step in one, or no fall after it, would be a division by zero."""
    part = min(part, 0.5 if three_phase else (num_steps - 1) / num_steps)
    return part if part * num_steps > 1 else 0.0


def _has_momentum(optimizer: Optimizer) -> bool:
    word = "betas" if "betas" in optimizer.defaults else "momentum"
    return word in optimizer.defaults and all(word in group for group in optimizer.param_groups)


SCHEDULE = build_schedule
