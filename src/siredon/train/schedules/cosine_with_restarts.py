"""`lr_scheduler: cosine_with_restarts`: half a cosine several times over, each from the peak to zero.

Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
"""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

from siredon.train.learning_rate import Span


def build_schedule(optimizer: Optimizer, span: Span, *, num_cycles: int = 1) -> LRScheduler:
    """`t / w` for t < w, else `(1 + cos(pi * frac(c (t - w) / (n - w)))) / 2`, and 0 at n."""
    scheduler: LRScheduler = get_cosine_with_hard_restarts_schedule_with_warmup(
        optimizer, span.num_warmup_steps, span.num_steps, num_cycles
    )
    return scheduler


SCHEDULE = build_schedule
