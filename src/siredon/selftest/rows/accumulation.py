"""Row 1: the loss of a step does not depend on how the step is cut into micro-batches.

Bugs of record: transformers#34191, #35203, #35438, #37766; axolotl#1100.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.tiny import ROWS
from siredon.selftest.trial import Trial
from siredon.selftest.truth import compare_numbers, compare_tensors

#: Rows that leave the last window short, with any accumulation over 1.
_SHORT = ROWS[:3]


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """One rank: several are the next row."""
    return grid.cells(ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds loss, gradients and their length against the truth."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    whole = one_step(cell)
    yield from compare_step(rig, whole, "")
    yield from compare_step(rig, replace(whole, is_plain=True), " (forward without further arguments)")
    short = Trial(cell, 1, _SHORT)
    if not cell.packed and cell.accumulation > len(_SHORT):
        yield from compare_step(rig, short, " (short last window)")


def compare_step(rig: Rig, trial: Trial, note: str) -> Iterator[tuple[str, float, float]]:
    """The measures of a trial of one optimizer step over all its rows."""
    truth = rig.truth(trial.rows, trial.kind)
    for rank, found in enumerate(rig.run(trial)):
        where = note + (f" on rank {rank}" if trial.cell.num_ranks > 1 else "")
        yield f"loss{where}", compare_numbers(found.losses, [truth.loss]), FP32
        yield f"gradients{where}", compare_tensors(found.gradients, truth.gradients), FP32
        yield f"logged grad_norm{where}", compare_numbers(found.norms, [truth.norm]), FP32
        yield f"targets counted{where}", abs(found.num_targets - truth.num_targets), 0.0


ROW = Row(
    number=1,
    proves="Loss and gradients of a step do not depend on how it is cut into micro-batches.",
    cells=list_cells,
    run=run,
)
