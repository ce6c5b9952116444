"""Row 27: a checkpoint of an adapter holds the adapter, all of it and nothing else, however many ranks train it.

Bugs of record: Soup#352; transformers#31034.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_tensors
from siredon.selftest.whole import LORA, read_weights

#: Micro-batches of a step, on all ranks together.
_NUM_SHARES = 2
_KEYS: dict[str, Any] = {**LORA, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
#: A matrix down and one up for each layer, in two blocks of seven layers.
_NUM_TENSORS = 2 * 2 * 7
_FORMATS = (".safetensors", ".bin", ".pt")
#: What a checkpoint has of such files; the state of random numbers is each rank's own.
_WANTED = {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "training_args.bin"}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Numbers of ranks that share a step; attention and packing have no part in it."""
    every = grid.cells(packings=(False,), accumulations=(1,), ranks=(2,) if grid.is_quick else None)
    ranks = sorted({cell.num_ranks for cell in every if cell.num_ranks <= _NUM_SHARES})
    return tuple(Cell(accumulation=_NUM_SHARES // number, num_ranks=number) for number in ranks)


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds saved tensors against those that every rank has, and against those of one rank."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    trial = one_step(cell, **_KEYS)
    alone = one_step(Cell(accumulation=_NUM_SHARES), **_KEYS)
    with rig.run_kept(trial) as output:
        ranks = rig.run(trial)
        names = [_list_files(output / f"checkpoint-{step}") for step in (1, 2)]
        yield "files of weights too many or too few", float(len(names[0] ^ _WANTED)), 0.0
        yield "files that differ from save to save", float(len(names[0] ^ names[1])), 0.0
        first, last = (read_weights(output / f"checkpoint-{step}") for step in (1, 2))
        strange = [name for name in last if "lora_" not in name]
        yield "tensors of the base", float(len(strange)), 0.0
        yield "tensors too many or too few", float(abs(len(last) - _NUM_TENSORS)), 0.0
        yield "tensors that differ from save to save", float(_count_other(first, last)), 0.0
        for rank, outcome in enumerate(ranks):
            own = {name.replace(".default.", "."): weight for name, weight in outcome.weights.items()}
            yield f"saved tensors against those of rank {rank}", compare_tensors(last, own), 0.0
    wanted = {name.replace(".default.", "."): weight for name, weight in rig.run(alone)[0].weights.items()}
    yield "saved tensors against those of one rank", compare_tensors(last, wanted), FP32


def _list_files(folder: Path) -> set[str]:
    """Files that hold tensors, but for the states of random numbers."""
    names = {path.name for path in folder.rglob("*") if path.suffix in _FORMATS}
    return {name for name in names if not name.startswith("rng_state")}


def _count_other(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> int:
    """Tensors that only one of two checkpoints has, or in another shape or number format."""
    same = [name for name in one.keys() & other.keys() if one[name].shape == other[name].shape]
    same = [name for name in same if one[name].dtype == other[name].dtype]
    return len(one.keys() | other.keys()) - len(same)


ROW = Row(
    number=27,
    proves="A checkpoint of an adapter holds the adapter, whole, and nothing of its base, on any number of ranks.",
    cells=list_cells,
    run=run,
)
