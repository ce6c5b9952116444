"""`lr_scheduler: linear`: up along a line, down along a line to zero."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_linear_schedule_with_warmup

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span) -> LRScheduler:
    """`t / w` for t < w, else `(n - t) / (n - w)`."""
    scheduler: LRScheduler = get_linear_schedule_with_warmup(optimizer, span.num_warmup_steps, span.num_steps)
    return scheduler


SCHEDULE = build_schedule
