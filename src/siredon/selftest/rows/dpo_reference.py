"""Row 19: the reference of DPO is the policy at its start.

Bugs of record: trl#1340, #6591, #6043.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from siredon.selftest.judged import learn_pairs
from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_numbers
from siredon.selftest.whole import LORA, Run, explain_runs

_CONTINUED = "continued adapter"
_CASES: dict[str, dict[str, Any]] = {"whole model": {}, "new adapter": LORA, _CONTINUED: LORA}
_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins")
#: The policy and its reference are computed with the same weights: what differs is the order of sums, if anything.
_SAME = 1e-5


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """All weights, an adapter that starts as nothing, and one that was trained before."""
    return tuple(Cell(case=case) for case in ((_CONTINUED,) if grid.is_quick else _CASES))


def run(rig: Rig, cell: Cell) -> Finding:
    """Trains with the reference computed beside the policy, and with one that was computed ahead."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell.case))


def _measure(rig: Rig, case: str) -> Iterator[tuple[str, float, float]]:
    keys = dict(_CASES[case])
    if case == _CONTINUED:
        keys["lora_model_dir"] = str(Run(rig, **LORA, learning_rate=0.05).train())
    live = learn_pairs(rig, **keys)
    yield "loss of the first step against ln 2", abs(live[0]["loss"] - math.log(2)), _SAME
    yield "rewards of the first step", max(abs(live[0][name]) for name in _REWARDS), _SAME
    # Were the reference to move with the policy, nothing would ever be learned of it
    yield "reward lacking at the last step", float(live[-1]["rewards/margins"] <= 0), 0.0
    ahead = learn_pairs(rig, **keys, precompute_ref_log_probs=True)
    for name in ("loss", *_REWARDS[:2]):
        found, wanted = ([row[name] for row in metrics] for metrics in (ahead, live))
        yield f"{name} with a reference computed ahead", compare_numbers(found, wanted), 10 * FP32


ROW = Row(
    number=19,
    proves="The reference of DPO is the policy at its start, computed beside it or ahead.",
    cells=list_cells,
    run=run,
)
