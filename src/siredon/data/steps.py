"""An answer in steps -> a sample with a label at the end of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from siredon.data.types import IGNORE, RowError, Sample, Steps

#: Labels of steps.
WRONG, RIGHT = 0, 1


def tokenize_steps(item: Steps, tokenizer: Any) -> Sample:
    """Prompt, steps and separators, each tokenized by itself, so that every step ends where a token ends.

    A step that is cut off has no label.

    Raises:
        RowError: The prompt has no token, or the separator has none.
    """

    def read(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt, separator = read(item.prompt), read(item.separator)
    if not prompt or not separator:
        raise RowError(f"has no token in its {'separator of steps' if prompt else 'prompt'}")
    answer: list[int] = []
    labels: list[int] = []
    for text, label in zip(item.steps, item.labels, strict=True):
        ids = [*read(text), *separator]
        answer += ids
        labels += [*[IGNORE] * (len(ids) - 1), IGNORE if label is None else RIGHT if label else WRONG]
    answer, labels = answer[: item.max_tokens], labels[: item.max_tokens]
    return Sample(
        np.array([*prompt, *answer], dtype=np.int32),
        np.array([*[IGNORE] * len(prompt), *labels], dtype=np.int32),
    )
