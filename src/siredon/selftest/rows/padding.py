"""Row 7: where the pad token is the eos token, the eos token of an answer is learned, and padding is not.

Bugs of record: unsloth#416; trl#456; llm-course#33.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import TALK, Corpus, build_chat_tokenizer, list_samples, read_template

#: The token that ends a turn is the eos token there.
_TEMPLATE = "mistral_v1"
_CASES: dict[str, dict[str, object]] = {
    "longest row": {},
    "full length": {"pad_to_sequence_len": True},
    "end to end": {"batch_flattening": True},
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Batches padded to their longest row, to the full length, and rows end to end; packed too."""
    return tuple(Cell(case=case, packed=packed) for case in _CASES for packed in (False, True))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds the labels of a batch against those of its rows."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    tokenizer = build_chat_tokenizer(read_template(_TEMPLATE), pads_with_eos=True)
    packing = {**_CASES[cell.case], "sample_packing": cell.packed}
    flatten = bool(packing.pop("batch_flattening", False))
    source = Corpus(
        tokenizer, [{"messages": TALK}, {"messages": TALK[:2]}], keys={"sequence_len": 256}, packing=packing
    )
    prepared = source.prepare(rig, flatten=flatten)
    samples = list_samples(prepared)
    eos = tokenizer.eos_token_id
    ends = sum(int((sample.labels == eos).sum()) for sample in samples)
    num_turns = sum(message["role"] == "assistant" for message in (*TALK, *TALK[:2]))
    yield "ends of turns without a label", float(abs(ends - num_turns)), 0.0
    dataset: Any = prepared.train
    batch = prepared.collator([dataset[index] for index in range(len(dataset))])
    labels = batch["labels"].numpy().ravel()
    wanted = np.concatenate([sample.labels[sample.labels != IGNORE] for sample in samples])
    found = labels[labels != IGNORE]
    yield "labels of a batch that are not those of its rows", float(not np.array_equal(found, wanted)), 0.0
    num_tokens = sum(len(sample.input_ids) for sample in samples)
    yield "tokens counted", float(abs(int(batch["num_tokens"].sum()) - num_tokens)), 0.0


ROW = Row(
    number=7,
    proves="With a pad token that is the eos token, answers learn to end, and padding teaches nothing.",
    cells=list_cells,
    run=run,
)
