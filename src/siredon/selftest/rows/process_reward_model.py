"""Row 31: a step of an answer is judged at its last token, and by the saved model too.

A common bug: labels that are shifted by one, as those of the next token are.
"""

from __future__ import annotations

from collections.abc import Iterator

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Row, find
from siredon.selftest.scores import ADAPTER, build_run, find_step_losses, list_cells, read_logged
from siredon.selftest.truth import compare_numbers
from siredon.selftest.whole import explain_runs


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds what a run logs against losses of steps in fp64, one answer at a time, of the model that it saved."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell.case))


def _measure(rig: Rig, case: str) -> Iterator[tuple[str, float, float]]:
    run = build_run(rig, "process_reward_model", case)
    output = run.train()
    steps, validation = read_logged(output)
    answers = find_step_losses(run.merge() if case == ADAPTER else output)
    every = [loss for answer in answers for loss in answer]
    mean = sum(every) / len(every)
    if case != ADAPTER:
        each = sorted(sum(answer) / len(answer) for answer in answers)
        found = sorted(step["loss"] for step in steps)
        yield "loss of training", compare_numbers(found, each if len(found) > 1 else [mean]), FP32
    yield "loss by the model that is saved", compare_numbers([validation["eval_loss"]], [mean]), FP32


ROW = Row(
    number=31,
    proves="A process reward model judges a step at its last token, and so does the saved one.",
    cells=list_cells,
    run=run,
)
