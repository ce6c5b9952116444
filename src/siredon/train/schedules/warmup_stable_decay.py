"""`lr_scheduler: warmup_stable_decay`: up, a long time at the peak, and down over the last steps (WSD).

Source: Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models", 2024.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_wsd_schedule

from siredon.errors import TrainingError
from siredon.train.learning_rate import Span


def build_schedule(
    optimizer: Optimizer,
    span: Span,
    *,
    num_decay_steps: int,
    num_stable_steps: int | None = None,
    **shape: Any,
) -> LRScheduler:
    """Warm-up over w steps, 1 over s, decay over d, then `min_lr_ratio`; s is `n - w - d` where it is not set.

    Args:
        optimizer: Whose learning rates are set.
        span: The run.
        num_decay_steps: d.
        num_stable_steps: s.
        shape: `warmup_type` and `decay_type` (`linear`, `cosine`, `1-sqrt`), `min_lr_ratio`, `num_cycles`.

    Raises:
        TrainingError: The run is shorter than warm-up and decay.
    """
    warmup = span.num_warmup_steps
    stable = span.num_steps - warmup - num_decay_steps if num_stable_steps is None else num_stable_steps
    if stable < 0:
        raise TrainingError(
            f"lr_scheduler: the run has {span.num_steps} optimizer steps, and warm-up ({warmup}) and decay "
            f"({num_decay_steps}) take {warmup + num_decay_steps}",
            "Lower `num_decay_steps` in `lr_scheduler_kwargs`, or `warmup_steps`.",
        )
    scheduler: LRScheduler = get_wsd_schedule(
        optimizer, warmup, num_decay_steps, num_stable_steps=stable, **shape
    )
    return scheduler


SCHEDULE = build_schedule
