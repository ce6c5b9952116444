"""Row 12: a row over the limit is dropped, cut or refused as asked, ids and labels together, and counted.

Rows are cut at their end: there is no key that cuts them at their start.

Bugs of record: axolotl#3401; verl#601.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siredon.data.types import IGNORE, Sample
from siredon.errors import DataError
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import (
    TALK,
    Corpus,
    build_chat_tokenizer,
    count_differences,
    list_samples,
    read_template,
)

_LIMIT = 100
#: Windows are those of `type: completion`, whose texts are cut into several samples, whatever the strategy.
_CASES = ("drop", "truncate", "raise", "windows")


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """What becomes of rows over the limit."""
    return tuple(Cell(case=case) for case in _CASES)


def run(rig: Rig, cell: Cell) -> Finding:
    """Tries a row of a token less than the limit, of as many, and of one more."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    for over in (-1, 0, 1):
        source, whole = _build_source(rig, cell.case, len_wanted=_LIMIT + over)
        where = f", {_LIMIT + over} tokens of {_LIMIT}"
        if over == 1 and cell.case == "raise":
            yield f"rows taken that must be refused{where}", _is_taken(rig, source), 0.0
            continue
        prepared = source.prepare(rig)
        found = list_samples(prepared)
        wanted = _cut(whole, cell.case)
        yield f"rows too many or too few{where}", float(abs(len(found) - len(wanted))), 0.0
        for sample, right in zip(found, wanted, strict=False):
            yield f"ids{where}", count_differences(sample.input_ids, right.input_ids), 0.0
            yield f"labels{where}", count_differences(sample.labels, right.labels), 0.0
        counts = prepared.counts[0]
        said = (counts.num_truncated, sum(counts.dropped.values()), counts.num_samples)
        right_counts = (
            int(over == 1 and cell.case == "truncate"),
            int(over == 1 and cell.case == "drop"),
            len(wanted),
        )
        yield (
            f"counts that are wrong{where}",
            float(sum(a != b for a, b in zip(said, right_counts, strict=True))),
            0.0,
        )


def _build_source(rig: Rig, case: str, len_wanted: int) -> tuple[Corpus, list[Sample]]:
    """Rows of which the last has so many tokens, and all their samples with room for everything."""
    tokenizer = build_chat_tokenizer(read_template("chatml"))
    if case == "windows":
        rows: list[dict[str, object]] = [{"text": "x" * (len_wanted - 1)}]  # and the eos token
        entry, keys = {"type": "completion"}, {}
    else:
        entry, keys = {"type": "chat_template"}, {"excess_length_strategy": case}
        short = list(TALK[:2])
        (sample,) = list_samples(Corpus(tokenizer, [{"messages": short}]).prepare(rig))
        padded = {**TALK[1], "content": TALK[1]["content"] + "!" * (len_wanted - len(sample.input_ids))}
        rows = [{"messages": short}, {"messages": [TALK[0], padded]}]
    whole = list_samples(Corpus(tokenizer, rows, entry).prepare(rig))
    assert len(whole[-1].input_ids) == len_wanted
    return Corpus(tokenizer, rows, entry, {**keys, "sequence_len": _LIMIT, "min_sample_len": 1}), whole


def _cut(whole: list[Sample], case: str) -> list[Sample]:
    """What must be left of samples, the slow way."""
    found = []
    for sample in whole:
        if case == "drop" and len(sample.input_ids) > _LIMIT:
            continue
        pieces = 1 if case == "truncate" else -(-len(sample.input_ids) // _LIMIT)
        for piece in range(pieces):
            ids = sample.input_ids[piece * _LIMIT : (piece + 1) * _LIMIT]
            labels = sample.labels[piece * _LIMIT : (piece + 1) * _LIMIT].copy()
            labels[0] = IGNORE  # Nothing predicts it
            if np.any(labels != IGNORE):
                found.append(Sample(ids, labels))
    return found


def _is_taken(rig: Rig, source: Corpus) -> float:
    try:
        source.prepare(rig)
    except DataError as error:
        return float(f"{_LIMIT + 1} tokens" not in error.message)
    return 1.0


ROW = Row(
    number=12,
    proves="Rows over sequence_len are dropped, cut or refused as asked, labels with ids, and counted.",
    cells=list_cells,
    run=run,
)
