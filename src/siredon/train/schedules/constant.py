"""`lr_scheduler: constant`: the peak, from the first step to the last."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_constant_schedule

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span) -> LRScheduler:
    """`1`, without warm-up."""
    scheduler: LRScheduler = get_constant_schedule(optimizer)
    return scheduler


SCHEDULE = build_schedule
