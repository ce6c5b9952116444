"""Row 28: dropout differs from rank to rank and from micro-batch to micro-batch, and follows the seed.

A common bug: every rank is seeded alike, so that all of them drop the same places, step after step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.trial import Outcome, Trial
from siredon.selftest.truth import compare_tensors

#: Equal rows, so that masks can be laid over each other.
_ROWS = ((24, 23),) * 16
_KEYS = {
    "adapter": "lora",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_linear": True,
    "lora_dropout": 0.5,
    "max_steps": 2,
}
#: How far the share of places in which two masks of 1,536 places agree may be from 1/2: over 7 standard deviations.
_CHANCE = 0.1


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Neither attention nor packing has a part in it."""
    every = grid.cells(packings=(False,), accumulations=(1, 4) if grid.is_quick else None)
    return tuple(cell for cell in every if cell.attention == "sdpa")


def run(rig: Rig, cell: Cell) -> Finding:
    """Lays the masks of all forward passes over each other, and repeats the run."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    trial = Trial(cell, 1, _ROWS, keys=json.dumps({**_KEYS, "seed": 1}))
    first, second = rig.run(trial), rig.run_anew(trial)
    other = rig.run(replace(trial, keys=json.dumps({**_KEYS, "seed": 2})))
    masks = [outcome.masks for outcome in first]
    yield "forward passes without a mask", abs(2 * cell.accumulation - min(map(len, masks))), 0.0
    for rank, own in enumerate(masks):
        yield f"masks of micro-batches alike on rank {rank}", _find_likeness(combinations(own, 2)), _CHANCE
    for one, two in combinations(range(len(masks)), 2):
        pairs = zip(masks[one], masks[two], strict=True)
        yield f"masks of ranks {one} and {two} alike", _find_likeness(pairs), _CHANCE
    seeds = zip(first[0].masks, other[0].masks, strict=True)
    yield "masks of two seeds alike", _find_likeness(seeds), _CHANCE
    for rank, (found, again) in enumerate(zip(first, second, strict=True)):
        yield f"masks changed by a second run on rank {rank}", _count_changes(found, again), 0.0
        # The places are the same anywhere; sums on a GPU may be made in another order
        tolerance = FP32 if rig.hardware.is_gpu else 0.0
        yield f"weights changed by a second run on rank {rank}", _compare(again, found), tolerance
        yield f"weights of rank {rank} against those of rank 0", _compare(found, first[0]), 0.0


def _find_likeness(pairs: Any) -> float:
    """By how much more than chance the most alike of pairs of masks agree: 0 to 1/2, or worse than that."""
    shares = [float((one.flatten() == other.flatten()).double().mean()) for one, other in pairs]
    return max((abs(share - 0.5) for share in shares), default=float("nan"))


def _count_changes(one: Outcome, other: Outcome) -> float:
    pairs = zip(one.masks, other.masks, strict=True)
    return float(sum(not torch.equal(mask, again) for mask, again in pairs))


def _compare(found: Outcome, wanted: Outcome) -> float:
    return compare_tensors(found.weights, wanted.weights)


ROW = Row(
    number=28,
    proves="Dropout differs between ranks and micro-batches, and is repeated bit for bit by the seed.",
    cells=list_cells,
    run=run,
)
