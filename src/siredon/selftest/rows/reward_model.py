"""Row 30: the score of an answer is that at its last token, and stays with the model.

Common bugs: a score that is taken at padding, or at the end of a row that several answers share; a head that is drawn
anew when the model is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Row, find
from siredon.selftest.scores import (
    ADAPTER,
    build_run,
    find_pair_losses,
    find_scores,
    list_cells,
    read_logged,
)
from siredon.selftest.truth import compare_numbers
from siredon.selftest.whole import explain_runs

_SIDES = ("rewards/chosen", "rewards/rejected")


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds what a run logs against scores in fp64, one answer at a time, of the model that it saved."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell.case))


def _measure(rig: Rig, case: str) -> Iterator[tuple[str, float, float]]:
    run = build_run(rig, "reward_model", case)
    output = run.train()
    steps, validation = read_logged(output)
    scores = find_scores(run.merge() if case == ADAPTER else output)
    for name, values in _name(scores).items():
        if case != ADAPTER:
            yield f"{name} of training", _compare([step[name] for step in steps], values), FP32
        yield f"{name} by the model that is saved", _compare([validation[f"eval_{name}"]], values), FP32
    every = [score for pair in scores for score in pair]
    for name, value in (("rewards/min", min(every)), ("rewards/max", max(every))):
        yield f"{name} by the model that is saved", _compare([validation[f"eval_{name}"]], [value]), FP32


def _compare(found: Sequence[float], wanted: Sequence[float]) -> float:
    """How far numbers, or their mean, are apart, relative to the largest: scores may have a mean of nearly 0."""
    if len(found) == len(wanted):
        return compare_numbers(sorted(found), sorted(wanted))
    (mean,) = found
    return abs(mean - sum(wanted) / len(wanted)) / max(map(abs, wanted))


def _name(scores: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Of each pair, its loss and its scores, by their names in the log."""
    sides = {name: [pair[side] for pair in scores] for side, name in enumerate(_SIDES)}
    return {"loss": find_pair_losses(scores), **sides}


ROW = Row(
    number=30,
    proves="A reward model scores an answer at its last token, whatever shares the row, and so does the saved one.",
    cells=list_cells,
    run=run,
)
