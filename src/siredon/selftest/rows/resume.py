"""Row 15: a run that goes on from a checkpoint equals the one that was never stopped, bit for bit on a CPU.

Bugs of record: accelerate#2016; transformers#40691; ms-swift#4985; prime-rl#2944.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.tiny import ROWS, SEQUENCE_LEN, count_sequences
from siredon.selftest.truth import compare_tensors
from siredon.selftest.whole import LORA, Run, explain_runs, read_weights

_EPOCH = 4
#: Optimizer steps of the whole run, two epochs.
_NUM_STEPS = 2 * _EPOCH
_STOPS = {"mid-epoch": 3, "epoch's end": _EPOCH, "epoch 2": 6}
_KINDS: dict[str, dict[str, Any]] = {
    "lora": {**LORA, "lora_dropout": 0.2},
    "full": {"optimizer": "adamw_torch"},
}
#: What a log line says of the clock and the memory.
_OF_THE_MACHINE = ("per_second", "runtime", "peak_memory", "seconds", "time")


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Adapter with dropout and all weights; packed or not; the moments at which a run is stopped."""
    if grid.is_quick:
        return (Cell(case="lora, mid-epoch", packed=True),)
    cases = (f"{kind}, {stop}" for kind in _KINDS for stop in _STOPS)
    return tuple(Cell(case=case, packed=packed) for case in cases for packed in (False, True))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds weights, state and log of a run that went on against those of one that did not stop."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    kind, _, stop = cell.case.partition(", ")
    # In fp32 on a GPU the order of sums is not the same from run to run
    tolerance = FP32 if rig.hardware.is_gpu else 0.0
    keys = {
        **_KINDS[kind],
        "sample_packing": cell.packed,
        "curriculum_sampling": cell.packed or None,  # Then the number of packs is known
        "sequence_len": SEQUENCE_LEN,
        # As many sequences as an epoch has, over its steps
        "gradient_accumulation_steps": -(-_count(packed=cell.packed) // _EPOCH),
        "num_epochs": 2,
        "max_steps": None,
        "save_strategy": "steps",
        "save_steps": _STOPS[stop],
        "save_total_limit": _NUM_STEPS,
    }
    whole = Run(rig, **keys).train()
    checkpoint = whole / f"checkpoint-{_STOPS[stop]}"
    again = Run(rig, **keys, resume_from_checkpoint=str(checkpoint)).train()
    last = max(
        (path.name for path in whole.glob("checkpoint-*")), key=lambda name: int(name.partition("-")[2])
    )
    yield "weights", compare_tensors(read_weights(again), read_weights(whole)), tolerance
    for name in ("optimizer.pt", "scheduler.pt"):
        yield f"{name} of {last}", compare_states(again / last / name, whole / last / name), tolerance
    (random,) = (path.name for path in (whole / last).glob("rng_state*"))
    yield f"{random} of {last}", compare_states(again / last / random, whole / last / random), 0.0
    lines = _read_log(whole)
    yield "log lines that differ", float(_count_other(_read_log(again), lines, tolerance)), 0.0
    yield "steps without a log line", float(abs(len(lines) - _NUM_STEPS)), 0.0


def _count(*, packed: bool) -> int:
    return count_sequences(ROWS, packed=packed)


def compare_states(found: Path, wanted: Path) -> float:
    """The largest difference of any number in two saved states; infinite where they hold other things."""
    one, other = (torch.load(path, weights_only=False) for path in (found, wanted))
    return _distance(one, other)


def _distance(one: Any, other: Any) -> float:
    if type(one) is not type(other):
        return math.inf
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape:
            return math.inf
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return math.inf
        return max((_distance(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return math.inf
        return max((_distance(left, right) for left, right in zip(one, other, strict=True)), default=0.0)
    same = repr(one) == repr(other)
    return 0.0 if same else math.inf


def _read_log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not any(word in name for word in _OF_THE_MACHINE)}
        for line in lines
    ]


def _count_other(found: list[dict[str, Any]], wanted: list[dict[str, Any]], tolerance: float) -> int:
    off = abs(len(found) - len(wanted))
    for line, right in zip(found, wanted, strict=False):
        if line.keys() != right.keys():
            off += 1
            continue
        off += any(not _is_near(line[name], right[name], tolerance) for name in right)
    return off


def _is_near(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(other))
    return bool(one == other)


ROW = Row(
    number=15,
    proves="A run that goes on from a checkpoint equals the one that was never stopped.",
    cells=list_cells,
    run=run,
)
