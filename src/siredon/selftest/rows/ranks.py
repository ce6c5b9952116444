"""Row 2: the loss of a step does not depend on how many processes share it.

Bugs of record: transformers#34242; torchtitan#2206; prime-rl#1957.
"""

from __future__ import annotations

from collections.abc import Iterator

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.rows.accumulation import compare_step
from siredon.selftest.trial import Trial

#: 5 targets on one rank, 1 on the other.
_UNEQUAL = ((6, 5), (2, 1))
#: One row: all ranks but the first have no target at all.
_ONE = ((6, 5),)


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Two ranks, and three in the whole table."""
    return grid.cells(ranks=(2,) if grid.is_quick else (2, 3))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds loss and gradients of every rank against those of one row after the other."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    yield from compare_step(rig, one_step(cell), "")
    if not cell.packed and cell.accumulation == 1:
        if cell.num_ranks == 2:
            yield from compare_step(rig, Trial(cell, 1, _UNEQUAL), " of 5 targets against 1")
        yield from compare_step(rig, Trial(cell, 1, _ONE), " where a rank has no targets")


ROW = Row(
    number=2,
    proves="Loss and gradients of a step do not depend on how many ranks share it.",
    cells=list_cells,
    run=run,
)
