"""Whether a run has anything left to do, and which of its checkpoints is its result."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerState

from siredon.config.schema import Config
from siredon.train.callbacks.best import count_worse, list_values
from siredon.train.callbacks.interrupter import has_due_evaluation


def find_result(folder: Path, config: Config, num_steps: int) -> Path | None:
    """The checkpoint that holds the result of a finished run; None if the run goes on.

    Args:
        folder: The last checkpoint.
        config: What decides which one is the best, and when the run stops early.
        num_steps: Optimizer steps of the whole run.
    """
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    section, patience = config.checkpoint, config.stopping.early_stopping_patience
    num_worse = count_worse(list_values(state, section.best_metric), rises=section.rises)
    has_stopped = patience is not None and num_worse >= patience
    if has_due_evaluation(state) or (state.global_step < num_steps and not has_stopped):
        return None
    best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else folder
    return best if config.ends_with_best and best.is_dir() else folder
