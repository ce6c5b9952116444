"""Row 24: gradients are the same where activations are computed again, or wait elsewhere, and not kept.

A common bug: with a frozen base, layers that are recomputed give the adapter no gradient at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.rows.accumulation import compare_step
from siredon.selftest.tiny import ROWS
from siredon.selftest.trial import Outcome
from siredon.selftest.truth import compare_tensors

#: Two steps: before the first one is made, half of an adapter is zero, and the other half has no gradient.
_LORA: dict[str, Any] = {
    "adapter": "lora",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_linear": True,
    "lora_dropout": 0.1,
    "max_steps": 2,
}
_ROWS = ROWS[:6]
_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("recomputed", {}),
    ("recomputed, reentrant", {"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    ("recomputed, kept on disk", {"activation_offloading": "disk"}),
)


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """A step in one piece, on one rank."""
    return grid.cells(accumulations=(1,), ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the gradients of an adapter, and of all weights, against those of a run that keeps everything."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    (kept,) = rig.run(one_step(cell, _ROWS, **_LORA))
    yield "trained weights without gradient, kept", _count_missing(kept), 0.0
    for name, keys in _WAYS:
        (found,) = rig.run(one_step(cell, _ROWS, **_LORA, gradient_checkpointing=True, **keys))
        yield f"gradients of an adapter, {name}", compare_tensors(found.gradients, kept.gradients), FP32
        yield f"trained weights without gradient, {name}", _count_missing(found), 0.0
    yield from compare_step(
        rig, one_step(cell, _ROWS, gradient_checkpointing=True), " of all weights, recomputed"
    )


def _count_missing(outcome: Outcome) -> float:
    there = {name for name, gradient in outcome.gradients.items() if gradient.count_nonzero()}
    return float(len(outcome.weights.keys() - there))


ROW = Row(
    number=24,
    proves="Gradients are the same where activations are recomputed or offloaded, also with a frozen base.",
    cells=list_cells,
    run=run,
)
