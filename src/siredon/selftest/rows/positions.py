"""Row 4: positions count from 0 in every document, and padding has no part in it.

Bugs of record: torchtune#875; LlamaFactory#10736.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.rows.accumulation import compare_step
from siredon.selftest.tiny import ROWS

#: Rotary positions; the same in a window; an embedding for each position, in which a wrong start shows at once; a
#: window in every other layer.
_KINDS = ("llama", "mistral", "gpt2", "gemma3_text")
_ROWS = ROWS[:6]
_PADDINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    (" in full length", {"pad_to_sequence_len": True}),
    (" in multiples of 56", {"pad_to_sequence_len": False, "pad_to_multiple_of": 56}),
)


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """A step in one piece."""
    return grid.cells(accumulations=(1,), ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds loss and gradients of a step against documents alone, in lengths that need padding."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    # transformers has no flex attention for GPT-2
    kinds = [kind for kind in _KINDS if (kind, cell.attention) != ("gpt2", "flex_attention")]
    for kind in kinds:
        for note, keys in _PADDINGS:
            yield from compare_step(rig, one_step(cell, _ROWS, kind, **keys), f", {kind}{note}")


ROW = Row(
    number=4,
    proves="Positions count from 0 in every document, and padding changes neither loss nor gradients.",
    cells=list_cells,
    run=run,
)
