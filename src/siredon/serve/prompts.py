"""What `inference` and `chat` are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siredon.serve.questions import Batch
from siredon.serve.sampling import Sampling


@dataclass(frozen=True)
class Prompts:
    """What a model is asked.

    Args:
        texts: The prompts; empty for a loop of them.
        base: Ask the base model, without its adapter.
        compare: Ask both, side by side.
        sampling: How tokens are chosen.
        batch: A file of questions; None without one.
        gradio: As a page in the browser.
        answers: Of a model that judges, what it is to judge.
        files: Of a model that judges, a file of answers, and where their scores go.
    """

    texts: Sequence[str]
    base: bool
    compare: bool
    sampling: Sampling
    batch: Batch | None = None
    gradio: bool = False
    answers: Sequence[str] = ()
    files: tuple[Path, Path] | None = None
