"""`lr_scheduler: polynomial`: down along a power of what is left of the run."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer, span: Span, *, lr_end: float = 1e-7, power: float = 1.0
) -> LRScheduler:
    """`t / w` for t < w, else `e + (1 - e) * ((n - t) / (n - w)) ** power`, with e = `lr_end / learning_rate`.

    That of transformers divides by zero where the warm-up is the whole run, and takes the peak from the optimizer's
    defaults, which not every optimizer keeps there.
    """
    warmup, end = span.num_warmup_steps, span.num_steps
    least = lr_end / span.peak

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        left = max(0, end - step) / max(1, end - warmup)
        return least + (1 - least) * float(left**power)

    return LambdaLR(optimizer, factor)


SCHEDULE = build_schedule
