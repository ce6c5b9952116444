"""`lr_scheduler: rex`: high for long and down late, for runs of a given length.

Source: Chen, Wolfe, Kyrillidis, "REX: Revisiting Budgeted Training with an Improved Schedule", 2021.
"""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer, span: Span, *, min_lr: float | None = None, min_lr_rate: float | None = None
) -> LRScheduler:
    """`t / w` for t < w, else `m + (1 - m) * z / (1/2 + z/2)` with `z = (n - t) / (n - w)`.

    Args:
        optimizer: Whose learning rates are set.
        span: The run.
        min_lr: The lowest rate; m is what part of the peak that is.
        min_lr_rate: m itself; by default 0.
    """
    warmup, end = span.num_warmup_steps, span.num_steps
    least = span.rate_of(min_lr, min_lr_rate)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        left = max(0, end - step) / max(1, end - warmup)
        return least + (1 - least) * left / (0.5 + 0.5 * left)

    return LambdaLR(optimizer, factor)


SCHEDULE = build_schedule
