"""The best model of the run: a checkpoint of it whenever one is found, an end with it, an end once none comes."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.log import note
from siredon.train.trainer import SiredonTrainer


class BestKeeper(TrainerCallback):
    """Saves at every validation that is better than all before, and ends with the best weights.

    So the best validation always has its checkpoint, whatever the rhythm of both; `save_total_limit` never drops it.

    Args:
        trainer: Whose weights they are.
        metric: Name of the metric, with `eval_`.
        rises: A higher one is better.
    """

    def __init__(self, trainer: SiredonTrainer, metric: str, *, rises: bool) -> None:
        self.trainer = trainer
        self.metric = metric
        self.rises = rises

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for a checkpoint."""
        values = list_values(state, self.metric)
        if state.global_step and count_worse(values, rises=self.rises) == 0:
            control.should_save = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Loads the best weights."""
        if state.best_model_checkpoint is not None:
            self.trainer.load_best_()
            note(f"best: step {state.best_global_step}, {self.metric} {state.best_metric:.4f}")


class EarlyStopping(TrainerCallback):
    """Ends the run after some validations in a row without a better one than the best before.

    The count follows from the log, which every checkpoint has: a run that goes on counts on.

    Args:
        metric: Name of the metric, with `eval_`.
        rises: A higher one is better.
        patience: How many.
    """

    def __init__(self, metric: str, *, rises: bool, patience: int) -> None:
        self.metric = metric
        self.rises = rises
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for the end."""
        if count_worse(list_values(state, self.metric), rises=self.rises) >= self.patience:
            control.should_training_stop = True
            note(
                f"stopping at step {state.global_step}: {self.patience} validations without a better {self.metric}"
            )


def list_values(state: TrainerState, metric: str) -> list[float]:
    """A metric of all validations so far; that of the untrained model is none of them."""
    return [row[metric] for row in state.log_history if metric in row and row["step"]]


def count_worse(values: list[float], *, rises: bool) -> int:
    """How many values there are after the best one; of several equal ones the first is the best, and NaN never is."""
    best: float | None = None
    worse = 0
    for value in values:
        signed = value if rises else -value
        is_better = signed > (float("-inf") if best is None else best)
        best, worse = (signed, 0) if is_better else (best, worse + 1)
    return worse
