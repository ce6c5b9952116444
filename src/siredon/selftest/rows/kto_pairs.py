"""Row 21: the mismatched pairs of KTO are of different rows.

Bugs of record: trl#1911, #1380, #2153; LlamaFactory#7509.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from siredon.selftest.judged import build_judged, count_own_answers, read_steps
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.whole import explain_runs

#: Which answers are good, in turn.
_CASES = {"good and bad": (True, False), "all good": (True,), "all bad": (False,)}
#: Answers of a micro-batch, beside which there need be no other.
_SIZES = (1, 2, 3)
_SAME = 1e-6


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Answers of both sorts, and of one alone."""
    return tuple(Cell(case=case) for case in (("all bad",) if grid.is_quick else _CASES))


def run(rig: Rig, cell: Cell) -> Finding:
    """Trains with micro-batches of one, two and three answers."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell.case))


def _measure(rig: Rig, case: str) -> Iterator[tuple[str, float, float]]:
    for size in _SIZES:
        run = build_judged(rig, _CASES[case], micro_batch_size=size)
        yield f"answers matched with themselves, {size} at once", float(count_own_answers(run)), 0.0
        steps = read_steps(run.train())
        figures = [step[name] for step in steps for name in ("loss", "grad_norm", "kl")]
        yield f"figures that are no numbers, {size} at once", float(not all(map(math.isfinite, figures))), 0.0
        # The policy is its reference: no answer has moved
        yield f"first loss against one half, {size} at once", abs(steps[0]["loss"] - 0.5), _SAME
        yield f"divergence below 0, {size} at once", max(0.0, *(-step["kl"] for step in steps)), 0.0


ROW = Row(
    number=21,
    proves="Mismatched answers of KTO are of different rows, and one sort of answers, or one answer, is enough.",
    cells=list_cells,
    run=run,
)
