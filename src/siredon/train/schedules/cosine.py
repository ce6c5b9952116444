"""`lr_scheduler: cosine`: up along a line or a parabola, down along half a cosine to zero or to a floor.

Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer,
    span: Span,
    *,
    num_cycles: float = 0.5,
    min_lr_ratio: float = 0.0,
    constant_lr_ratio: float = 1.0,
    quadratic_warmup: bool = False,
) -> LRScheduler:
    """`t / w`, or its square, for t < w, else `m + (1 - m) * (1 + cos(2 pi c (t - w) / (e - w))) / 2`.

    Args:
        optimizer: Whose learning rates are set.
        span: The run.
        num_cycles: c, waves of the cosine.
        min_lr_ratio: m, the floor as a part of the peak.
        constant_lr_ratio: Part of the run after which the learning rate stays: step e is `floor(ratio * n)`.
        quadratic_warmup: Warm up along a parabola.
    """
    warmup, end = span.num_warmup_steps, math.floor(constant_lr_ratio * span.num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step / warmup) ** (2 if quadratic_warmup else 1)
        done = (min(step, end) - warmup) / (end - warmup) if end > warmup else 1.0
        wave = 0.5 * (1 + math.cos(2 * math.pi * num_cycles * done))
        return min_lr_ratio + (1 - min_lr_ratio) * wave

    return LambdaLR(optimizer, factor)


SCHEDULE = build_schedule
