"""What `evaluate` and `lm-eval` are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Which model: the one that was tuned, its base, or both.
Which = Literal["tuned", "base", "both"]
#: Which rows.
Split = Literal["validation", "training", "all"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` is asked.

    Args:
        which: The models.
        split: The rows; None for the validation rows, or the training rows where there are none.
        metrics: Names on the shelf `metrics/`, or dotted paths of functions.
        num_answers: Most rows of each split that the model answers, None for all; of pairs, where two models are
            compared, how many are written down one by one, None for `NUM_SAMPLES`.
        output: Where results go; None for a folder `evaluation` beside the model.
    """

    which: Which = "tuned"
    split: Split | None = None
    metrics: tuple[str, ...] = ()
    num_answers: int | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """What `lm-eval` is asked.

    Args:
        which: The models.
        tasks: Tasks, each with its number of examples if any; empty for those of the config.
        include: Folders with tasks of one's own.
        limit: Questions of each task: a number, or a part below 1; None for all.
        chats: Whether prompts are put into the chat template.
        output: Where results go; None for a folder `lm_eval_results` beside the model.
    """

    which: Which = "tuned"
    tasks: tuple[str, ...] = ()
    include: tuple[Path, ...] = ()
    limit: float | None = None
    chats: bool = False
    output: Path | None = None
