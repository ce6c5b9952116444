"""What the model writes when a part of a row is given, without a trace in the training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.data.collate import PackDataset
from siredon.data.types import Sample
from siredon.train.callbacks.interrupter import has_due_evaluation
from siredon.train.callbacks.metrics import keep_lines
from siredon.train.trainer import SiredonTrainer

#: The likeliest token each time: nothing is drawn.
GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


class RowWriter(TrainerCallback):
    """Lets the model write on the first validation rows at each validation, and keeps what it wrote, a line a row.

    Each validation draws with the run's seed and its own step: a run that goes on writes what it would have written.

    Args:
        trainer: Model and rows.
        tokenizer: Of the model.
        num_rows: The first so many validation rows.
        path: The file.
    """

    def __init__(self, trainer: SiredonTrainer, tokenizer: Any, num_rows: int, path: Path) -> None:
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.num_rows = num_rows
        self.path = path

    def build_row(self, model: Any, number: int, sample: Sample) -> dict[str, str]:
        """What is kept of one row, beside its number and the step."""
        raise NotImplementedError

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keeps what was written up to the step from which the run goes on."""
        if state.is_world_process_zero:
            # Those of a validation that was cut are written again
            keep_lines(self.path, state.global_step, redone=has_due_evaluation(state))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Writes the rows of this validation."""
        if state.is_world_process_zero:
            self._write_rows(args.seed + state.global_step, state.global_step)
        # The first rank may have stopped between two rows
        self.trainer.check_evaluation()

    def _write_rows(self, seed: int, step: int) -> None:
        samples = first_samples(self.trainer.eval_dataset, self.num_rows)
        with undisturbed(self.trainer, seed) as model, self.path.open("a") as stream:
            for number, sample in samples:
                if self.trainer.is_asked_to_end():
                    return
                row = {"step": step, "row": number, **self.build_row(model, number, sample)}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def undisturbed(trainer: SiredonTrainer, seed: int) -> Iterator[Any]:
    """The model, ready to write, with random numbers of its own from `seed`; mode and random state come back."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    device = trainer.args.device
    was_training = model.training
    model.eval()
    fork = (
        torch.random.fork_rng(devices=[])
        if device.type == "cpu"
        else torch.random.fork_rng(devices=[device], device_type=device.type)
    )
    with torch.no_grad(), fork, trainer.compute_loss_context_manager():
        torch.manual_seed(seed)
        try:
            yield model
        finally:
            model.train(was_training)


def continue_ids(model: Any, ids: list[int], options: dict[str, Any]) -> list[int]:
    """The tokens that come after `ids`, up to and with the stop token, which is that of the run.

    Args:
        model: A model of transformers, or PEFT's wrapper around one.
        ids: What is given.
        options: How tokens are chosen, as `generate` takes it.
    """
    given = torch.tensor([ids], device=model.device)
    # A cache is safe here: there is one document, whose positions begin at 0.
    output = model.generate(input_ids=given, attention_mask=torch.ones_like(given), use_cache=True, **options)
    return [int(token) for token in output[0, len(ids) :]]


def first_samples(dataset: Any, count: int) -> list[tuple[int, Sample]]:
    """The first rows of a data set, each with its number, packed or not."""
    assert isinstance(dataset, PackDataset)
    chosen = [int(index) for index in dataset.packs.indices[:count]]
    return [(index, dataset.table[index]) for index in chosen]
