"""`lr_scheduler: cosine_warmup_with_min_lr`: half a cosine to a lowest rate, with a first step that is not in vain."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate

from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer,
    span: Span,
    *,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
    num_cycles: float = 0.5,
) -> LRScheduler:
    """`(t + 1) / w` for t < w, else `m + (1 - m) * (1 + cos(2 pi c (t - w + 1) / (n - w))) / 2`.

    Args:
        optimizer: Whose learning rates are set.
        span: The run.
        min_lr: The lowest rate; m is what part of the peak that is.
        min_lr_rate: m itself.
        warmup_lr_rate: u, the part of the peak at which warm-up begins: then it is `u + (1 - u) t / (w - 1)`.
        num_cycles: c, waves of the cosine.
    """
    scheduler: LRScheduler = get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer,
        span.num_warmup_steps,
        span.num_steps,
        num_cycles,
        min_lr_rate=span.rate_of(min_lr, min_lr_rate),
        warmup_lr_rate=warmup_lr_rate,
    )
    return scheduler


SCHEDULE = build_schedule
