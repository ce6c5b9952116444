"""predictions.jsonl: the model's answers to validation prompts beside the right ones, at each validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from siredon.data.types import IGNORE, Sample
from siredon.train.continuation import GREEDY, RowWriter, continue_ids
from siredon.train.trainer import SiredonTrainer


class PredictionWriter(RowWriter):
    """Gives the model what stands before the first learned token of a row, and writes its answer beside the row's.

    The likeliest token is taken each time, so nothing is drawn.

    Args:
        trainer: Model and rows.
        tokenizer: Of the model.
        num_rows: The first so many validation rows.
        max_new_tokens: Longest answer.
        path: The file.
    """

    def __init__(
        self, trainer: SiredonTrainer, tokenizer: Any, num_rows: int, max_new_tokens: int, path: Path
    ) -> None:
        super().__init__(trainer, tokenizer, num_rows, path)
        self.options = {
            "max_new_tokens": max_new_tokens,
            "pad_token_id": tokenizer.pad_token_id,
            **GREEDY,
        }

    def build_row(self, model: Any, number: int, sample: Sample) -> dict[str, str]:
        """A line of the table."""
        ids = [int(token) for token in sample.input_ids]
        given, end = find_answer(sample)
        return {
            "prompt": self.tokenizer.decode(ids[:given]),
            "expected": self.tokenizer.decode(ids[given:end]),
            "predicted": self.tokenizer.decode(continue_ids(model, ids[:given], self.options)),
        }


def find_answer(sample: Sample) -> tuple[int, int]:
    """Where the first stretch of learned tokens begins and ends; never with the first token, which nothing predicts."""
    learned = sample.labels != IGNORE
    learned[0] = False
    edges = np.flatnonzero(np.diff(learned.astype(np.int8), append=0)) + 1
    begin = int(edges[0]) if len(edges) else len(learned)
    return begin, int(edges[1]) if len(edges) > 1 else len(learned)
