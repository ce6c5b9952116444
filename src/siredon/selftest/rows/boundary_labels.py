"""Row 5: the first token of a packed document is no target of the document before it.

Bug of record: unsloth-zoo#1066.
"""

from __future__ import annotations

from collections.abc import Iterator

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.rows.accumulation import compare_step
from siredon.selftest.tiny import ROWS


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Packed, on one rank."""
    return grid.cells(packings=(True,), ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds packs against their documents alone, with prompts learned and not."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    yield from compare_step(rig, one_step(cell), "")
    learned = tuple((tokens, tokens) for tokens, _ in ROWS)
    yield from compare_step(rig, one_step(cell, learned), " (prompts learned)")


ROW = Row(
    number=5,
    proves="No document in a pack predicts the first token of the next; every target counts once.",
    cells=list_cells,
    run=run,
)
