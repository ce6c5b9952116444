"""predictions.jsonl: the model's answers to validation prompts beside the right ones, at each validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.data.types import IGNORE, Sample
from siredon.train.callbacks.metrics import keep_lines
from siredon.train.continuation import continue_ids, first_samples, undisturbed
from siredon.train.trainer import SiredonTrainer


class PredictionWriter(TrainerCallback):
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
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.num_rows = num_rows
        self.max_new_tokens = max_new_tokens
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keeps what was written up to the step from which the run goes on."""
        if state.is_world_process_zero:
            keep_lines(self.path, state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Writes the table's rows of this validation."""
        if not state.is_world_process_zero:
            return
        options = {
            "max_new_tokens": self.max_new_tokens,
            "pad_token_id": self.tokenizer.pad_token_id,
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
        samples = first_samples(self.trainer.eval_dataset, self.num_rows)
        with undisturbed(self.trainer, args.seed) as model, self.path.open("a") as stream:
            for number, sample in samples:
                ids = [int(token) for token in sample.input_ids]
                given, end = find_answer(sample)
                row = {
                    "step": state.global_step,
                    "row": number,
                    "prompt": self.tokenizer.decode(ids[:given]),
                    "expected": self.tokenizer.decode(ids[given:end]),
                    "predicted": self.tokenizer.decode(continue_ids(model, ids[:given], options)),
                }
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def find_answer(sample: Sample) -> tuple[int, int]:
    """Where the first stretch of learned tokens begins and ends; never with the first token, which nothing predicts."""
    learned = sample.labels != IGNORE
    learned[0] = False
    edges = np.flatnonzero(np.diff(learned.astype(np.int8), append=0)) + 1
    begin = int(edges[0]) if len(edges) else len(learned)
    return begin, int(edges[1]) if len(edges) > 1 else len(learned)
