"""metrics.jsonl: one line per log, without gaps or repeats after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.train.callbacks.interrupter import has_due_evaluation
from siredon.train.publish import write_whole
from siredon.train.space import explain_disk


class MetricsWriter(TrainerCallback):
    """Appends every log to `metrics.jsonl`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keeps the lines up to the step from which the run goes on; none if it starts anew."""
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = keep_lines(self.path, state.global_step, redone=has_due_evaluation(state))
        if not kept and state.global_step:
            # The run goes on in another folder: what the checkpoint remembers of its log is less, but without gaps.
            rows = [_row(row["step"], row["epoch"], row) for row in state.log_history]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Writes one line."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = _row(state.global_step, state.epoch or 0.0, logs)
        with explain_disk(self.path), self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def keep_lines(path: Path, step: int, *, redone: bool = False) -> int:
    """Keeps the lines of a file up to a step, and says how many; a line that a kill cut short is none.

    Args:
        path: The file.
        step: The last step whose lines are kept; before the first one a run starts anew.
        redone: The validation of that step is made again.
    """
    text = path.read_text() if step and path.is_file() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    rows = [(line, json.loads(line)) for line in lines]
    kept = [
        line
        for line, row in rows
        if row["step"] <= step and not (redone and row["step"] == step and _is_of_validation(row))
    ]
    with explain_disk(path):
        write_whole(path, "".join(kept))
    return len(kept)


def _is_of_validation(row: dict[str, Any]) -> bool:
    """Whether a validation wrote it: its metrics, or a row that the model went on with."""
    return "eval_loss" in row or "row" in row


def _row(step: int, epoch: float, logs: dict[str, Any]) -> dict[str, Any]:
    row = {"step": step, "epoch": round(epoch, 4)}
    return row | {name: value for name, value in logs.items() if name not in ("epoch", "step")}
