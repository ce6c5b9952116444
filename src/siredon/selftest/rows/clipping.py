"""Row 26: the gradient is clipped once, as a whole and in the end; that of an adapter is summed up in fp32.

Common bugs: clipped before it is scaled or per micro-batch; summed up in a 16-bit format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_numbers, compare_tensors

#: What PyTorch adds to the length of the gradient before it divides by it.
_EPSILON = 1e-6
#: What is trained in fp32 beside 16-bit weights.  Without an adapter, gradients have the format of the weights.
_LORA: dict[str, Any] = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Up to 8 micro-batches."""
    accumulations = (1, 4) if grid.is_quick else (1, 2, 4, 8)
    packings = (False,) if grid.is_quick else None
    return grid.cells(packings=packings, accumulations=accumulations)


def run(rig: Rig, cell: Cell) -> Finding:
    """Clips to half the true length."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    truth = rig.truth()
    limit = round(truth.norm / 2, 6)
    factor = limit / (truth.norm + _EPSILON)
    wanted = {name: gradient * factor for name, gradient in truth.gradients.items()}
    for rank, found in enumerate(rig.run(one_step(cell, max_grad_norm=limit))):
        where = f" on rank {rank}" if cell.num_ranks > 1 else ""
        yield f"clipped gradients{where}", compare_tensors(found.gradients, wanted), FP32
        if rank == 0:  # the one that logs
            yield "logged grad_norm, before clipping", compare_numbers(found.norms, [truth.norm]), FP32
    for found in rig.run(one_step(cell, bf16=True, **_LORA)):
        others = [name for name in found.gradient_types if name != "torch.float32"]
        yield "number formats of gradients beside fp32, with bf16", float(len(others)), 0.0
        yield "steps without gradient, with bf16", float(not found.gradient_types), 0.0


ROW = Row(
    number=26,
    proves="The gradient is clipped once, as a whole, after all micro-batches and ranks; that of an adapter is fp32.",
    cells=list_cells,
    run=run,
)
