"""Row 13: the validation loss depends neither on the batch size nor on packing nor on ranks.

Bugs of record: transformers#39241; unsloth#4616.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_numbers, compare_tensors

_BATCH_SIZES = (1, 2, 7)
#: Dropout shows whether the random state is what it was.
_LORA: dict[str, Any] = {
    "adapter": "lora",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_linear": True,
    "lora_dropout": 0.5,
    "max_steps": 2,
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Accumulation has no part in it."""
    return grid.cells(accumulations=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the validation before the first step against the mean over all targets."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    truth = rig.truth()
    for size in _BATCH_SIZES:
        for found in rig.run(one_step(cell, validates=True, eval_batch_size=size)):
            distance = compare_numbers(found.eval_losses[:1], [truth.loss])
            yield f"validation loss, batch size {size}", distance, FP32
    if not cell.packed:
        plain, validated = (
            rig.run(one_step(cell, validates=validates, **_LORA)) for validates in (False, True)
        )
        for one, other in zip(plain, validated, strict=True):
            yield "weights changed by validating", compare_tensors(other.weights, one.weights), 0.0


ROW = Row(
    number=13,
    proves="The validation loss is the mean over all targets, for any batch, packing and ranks, and leaves no trace.",
    cells=list_cells,
    run=run,
)
