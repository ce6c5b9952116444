"""`lr_scheduler: inverse_sqrt`: down with the square root of the steps made.

Source: Vaswani et al., "Attention Is All You Need", 2017.
"""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_inverse_sqrt_schedule

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span, *, timescale: int | None = None) -> LRScheduler:
    """`t / w` for t < w, else `1 / sqrt((t - w + s) / s)`; s is `timescale`, by default w, or 10,000 without one."""
    scheduler: LRScheduler = get_inverse_sqrt_schedule(optimizer, span.num_warmup_steps, timescale)
    return scheduler


SCHEDULE = build_schedule
