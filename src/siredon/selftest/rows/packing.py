"""Row 23: packing drops no row, repeats none and cuts none, however long rows are and however many ranks share them.

Bugs of record: torchtune#1689; axolotl#3100.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import Corpus, build_chat_tokenizer, list_samples
from siredon.selftest.tiny import ROWS
from siredon.selftest.trial import Trial

_CAPACITY = 48
_CASES: dict[str, dict[str, Any]] = {
    "best fit": {"sample_packing_sequentially": False},
    "in order": {"sample_packing_sequentially": True},
    "small groups": {"sample_packing_sequentially": False, "sample_packing_group_size": 5},
    "two rows at most": {"sample_packing_sequentially": False, "sample_packing_bin_size": 2},
}
_TRAINED = "trained"


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Ways to pack; and an epoch of training, alone and on two ranks."""
    ranks = (1, 2) if 2 in grid.ranks else (1,)
    trained = tuple(Cell(packed=True, num_ranks=number, case=_TRAINED) for number in ranks)
    return (*(Cell(packed=True, case=case) for case in _CASES), *trained)


def run(rig: Rig, cell: Cell) -> Finding:
    """Counts every row by its tokens and labels, before packing and after."""
    return find(_measure_epoch(rig, cell) if cell.case == _TRAINED else _measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    random = np.random.default_rng(0)
    lengths = {
        "one row": [5],
        "full rows": [_CAPACITY] * 3,
        "short rows": random.integers(2, 6, 60).tolist(),
        "rows of any length": random.integers(2, _CAPACITY + 1, 60).tolist(),
    }
    for what, sizes in lengths.items():
        for multiple in (1, 6):
            where = f", {what}{', shared' if multiple > 1 else ''}"
            rows = _build_rows(sizes, random)
            source = Corpus(
                build_chat_tokenizer(),
                rows,
                {"type": "tokenized"},
                {"sequence_len": _CAPACITY},
                {"sample_packing": True, **_CASES[cell.case]},
            )
            prepared = source.prepare(rig, multiple=multiple)
            found = Counter(
                (tuple(s.input_ids.tolist()), tuple(s.labels.tolist())) for s in list_samples(prepared)
            )
            wanted = Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in rows)
            yield f"rows lost{where}", float((wanted - found).total()), 0.0
            yield f"rows repeated or made up{where}", float((found - wanted).total()), 0.0
            dataset: Any = prepared.train
            yield f"packs over the limit{where}", float((dataset.lengths > _CAPACITY).sum()), 0.0
            yield f"packs that ranks do not share{where}", float(len(dataset) % multiple), 0.0


def _build_rows(sizes: Sequence[int], random: np.random.Generator) -> list[dict[str, list[int]]]:
    """Rows of so many random tokens; the first is no target."""
    rows = []
    for size in sizes:
        ids = random.integers(5, 200, size).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORE, *ids[1:]]})
    return rows


def _measure_epoch(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    trial = Trial(
        cell, 1, ROWS, keys='{"max_steps": null, "num_epochs": 1, "sample_packing_sequentially": false}'
    )
    num_tokens = sum(tokens for tokens, _ in ROWS)
    num_targets = sum(min(learned, tokens - 1) for tokens, learned in ROWS)
    outcomes = rig.run(trial)
    for rank, found in enumerate(outcomes):
        yield f"tokens of an epoch on rank {rank}", float(abs(found.num_tokens - num_tokens)), 0.0
        yield f"targets of an epoch on rank {rank}", float(abs(found.num_targets - num_targets)), 0.0
    yield "steps that ranks do not share", float(len({len(found.losses) for found in outcomes}) - 1), 0.0


ROW = Row(
    number=23,
    proves="Packing keeps every row once, whole; an epoch on any number of ranks has every token once.",
    cells=list_cells,
    run=run,
)
