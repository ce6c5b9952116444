"""Row 25: the loss that is computed in pieces, of chosen logits, is the plain cross-entropy of all.

A common bug: a loss that saves memory differs where rows are masked, logits are capped, or a piece ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.rows.accumulation import compare_step
from siredon.selftest.truth import compare_numbers, compare_tensors
from siredon.train.losses import cross_entropy_sum

#: Rows of a piece, and a vocabulary that is no multiple of anything.
_CHUNK, _VOCABULARY = 16, 307
#: Less than a piece, exactly one, one row more, and several.
_NUM_ROWS = (15, 16, 17, 50)


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """A step in one piece, on one rank."""
    return grid.cells(accumulations=(1,), ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the function against fp64 at the ends of pieces, and a step of a model that caps its logits."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    device = torch.device(rig.hardware.device)
    for num_rows in _NUM_ROWS:
        yield from _compare(num_rows, device, masked=3, note="")
    yield from _compare(_NUM_ROWS[-1], device, masked=1, note=", nothing learned")
    yield from compare_step(rig, one_step(cell, kind="gemma3_text"), " of capped logits")


def _compare(
    num_rows: int, device: torch.device, *, masked: int, note: str
) -> Iterator[tuple[str, float, float]]:
    """Loss and gradient of random logits; every `masked`-th row is no target."""
    chance = torch.Generator().manual_seed(num_rows)
    logits = 4 * torch.randn(num_rows, _VOCABULARY, generator=chance)
    targets = torch.randint(_VOCABULARY, (num_rows,), generator=chance)
    targets[::masked] = IGNORE
    exact = logits.double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact, targets, ignore_index=IGNORE, reduction="sum")
    wanted.backward()  # type: ignore[no-untyped-call]
    mine = logits.to(device).requires_grad_()
    found = cross_entropy_sum(mine, targets.to(device), chunk_rows=_CHUNK)
    found.backward()  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert exact.grad is not None
    where = f"of {num_rows} rows in pieces of {_CHUNK}{note}"
    yield f"loss {where}", compare_numbers([found.item()], [wanted.item()]), FP32
    yield f"gradient {where}", compare_tensors({"": mine.grad.cpu()}, {"": exact.grad}), FP32


ROW = Row(
    number=25,
    proves="The loss computed in pieces, of chosen logits, is the plain cross-entropy, also of capped logits.",
    cells=list_cells,
    run=run,
)
