"""Row 20: log-probabilities of preferences are those of the responses alone.

A common bug: the prompt, or the padding, is counted too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.selftest.judged import PAIRS, SIDES, find_log_probs, learn_pairs
from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_numbers
from siredon.selftest.whole import explain_runs

#: A pair a step, whose weights stay as they are; all pairs in one step, alone, padded beside each other, and packed.
_CASES: dict[str, dict[str, Any]] = {
    "one by one": {"gradient_accumulation_steps": 1, "max_steps": len(PAIRS)},
    "padded": {"micro_batch_size": len(PAIRS), "gradient_accumulation_steps": 1, "max_steps": 1},
    "packed": {"sample_packing": True, "sequence_len": 256, "micro_batch_size": 1, "max_steps": 1},
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """How pairs share batches."""
    return tuple(Cell(case=case) for case in (("padded",) if grid.is_quick else _CASES))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the log-probabilities that a run logs against sums in fp64, one answer at a time."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell.case))


def _measure(rig: Rig, case: str) -> Iterator[tuple[str, float, float]]:
    # So small a step changes no weight
    keys = {"learning_rate": 1e-30, "gradient_accumulation_steps": len(PAIRS), **_CASES[case]}
    metrics = learn_pairs(rig, **keys)
    truth = find_log_probs(rig.write_model("llama"))
    for side, name in enumerate(SIDES):
        found = sorted(row[name] for row in metrics)
        wanted = sorted(pair[side] for pair in truth)
        if len(found) == 1:  # The mean over the step
            wanted = [sum(wanted) / len(wanted)]
        yield name, compare_numbers(found, wanted), FP32


ROW = Row(
    number=20,
    proves="Log-probabilities of preferences are sums over the responses alone, however rows are padded.",
    cells=list_cells,
    run=run,
)
