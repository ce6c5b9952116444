"""`lr_scheduler: constant_with_warmup`: up along a line, then the peak."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_constant_schedule_with_warmup

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span) -> LRScheduler:
    """`t / w` for t < w, else 1."""
    scheduler: LRScheduler = get_constant_schedule_with_warmup(optimizer, span.num_warmup_steps)
    return scheduler


SCHEDULE = build_schedule
