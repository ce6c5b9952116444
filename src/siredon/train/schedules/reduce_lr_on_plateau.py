"""`lr_scheduler: reduce_lr_on_plateau`: the peak, and lower each time that validations stop getting better."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span, **settings: Any) -> LRScheduler:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau`; it advances at each validation, not at each step.

    Args:
        optimizer: Whose learning rates are lowered.
        span: The run; only the direction of its metric counts, which is the default of `mode`.
        settings: `mode`, `factor`, `patience`, `threshold`, `threshold_mode`, `cooldown`, `min_lr`, `eps`.
    """
    settings = {"mode": "min" if span.falls else "max", **settings}
    return ReduceLROnPlateau(optimizer, **settings)


SCHEDULE = build_schedule
