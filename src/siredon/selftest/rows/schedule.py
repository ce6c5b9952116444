"""Row 14: the learning rate moves once per optimizer step, and ends where the schedule ends.

Bugs of record: accelerate#963, #2926; starVLA#210.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP64, Cell, Finding, Grid, Row, find
from siredon.selftest.tiny import ROWS
from siredon.selftest.trial import Trial
from siredon.selftest.truth import compare_numbers

#: A number of rows that leaves the last window of an epoch short.
_ROWS = ROWS[:7]
_EPOCHS, _PEAK, _WARMUP = 3, 0.1, 2
_KEYS = {"lr_scheduler": "cosine", "warmup_steps": _WARMUP, "learning_rate": _PEAK} | {
    "num_epochs": _EPOCHS,
    "max_steps": None,
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Attention and packing have no part in it."""
    return tuple(cell for cell in grid.cells(packings=(False,)) if cell.attention == "sdpa")


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the learning rate of every step, and the one after the last, against the formula."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    batches = math.ceil(len(_ROWS) / cell.num_ranks)
    num_steps = _EPOCHS * math.ceil(batches / cell.accumulation)
    wanted = [_PEAK * _find_factor(step, num_steps) for step in range(num_steps + 1)]
    for rank, found in enumerate(rig.run(Trial(cell, 1, _ROWS, keys=json.dumps(_KEYS)))):
        where = f" on rank {rank}" if cell.num_ranks > 1 else ""
        if rank == 0:  # the one that logs
            rates = [*found.rates, found.final_rate]
            yield "learning rate of a step", compare_numbers(rates, wanted), FP64
        yield f"learning rate after the last step{where}", abs(found.final_rate) / _PEAK, FP64


def _find_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, then half a cosine: Loshchilov and Hutter 2017."""
    if step < _WARMUP:
        return step / _WARMUP
    return (1 + math.cos(math.pi * (step - _WARMUP) / (num_steps - _WARMUP))) / 2


ROW = Row(
    number=14,
    proves="The learning rate moves once per optimizer step, whatever the accumulation and ranks, to its end.",
    cells=list_cells,
    run=run,
)
