"""Row 11: data that teaches nothing is refused before training, with counts; rows that teach nothing are counted.

Bugs of record: unsloth#2900; LlamaFactory#4635.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from siredon.data.types import IGNORE
from siredon.errors import DataError
from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import TALK, Corpus, build_chat_tokenizer, list_samples, read_template

#: What masks every label -> the rows, keys of the data set, keys of the data.
_MASKED: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = {
    "wrong role": ({"messages": TALK}, {"type": "chat_template", "roles_to_train": ["gpt4"]}, {}),
    "cut before the answer": (
        {"messages": TALK},
        {"type": "chat_template"},
        {"excess_length_strategy": "truncate", "sequence_len": 24},
    ),
    "all labels masked": ({"input_ids": [9, 10, 11], "labels": [IGNORE] * 3}, {"type": "tokenized"}, {}),
    "no learned segment": (
        {"segments": [{"label": False, "text": "Only a prompt"}]},
        {"type": "input_output"},
        {},
    ),
}
_NUM_ROWS = 3
_EMPTY_BATCH = "batch without targets"


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """What masks every label; and a batch that has none."""
    return (*(Cell(case=case) for case in _MASKED), Cell(case=_EMPTY_BATCH))


def run(rig: Rig, cell: Cell) -> Finding:
    """Prepares rows that teach nothing, alone and among others; or takes the gradient of no target."""
    return find(_measure_step(rig) if cell.case == _EMPTY_BATCH else _measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    row, entry, keys = _MASKED[cell.case]
    tokenizer = build_chat_tokenizer(read_template("chatml"))
    source = Corpus(tokenizer, [row] * _NUM_ROWS, entry, keys)
    yield "data sets taken that teach nothing", _is_taken(rig, source), 0.0
    if entry["type"] != "tokenized":
        return
    good = {"input_ids": [9, 10, 11], "labels": [IGNORE, 10, 11]}
    prepared = Corpus(tokenizer, [row, good], entry, keys).prepare(rig)
    yield "rows kept that teach nothing", float(abs(len(list_samples(prepared)) - 1)), 0.0
    yield "rows dropped that are not counted", float(abs(sum(prepared.counts[0].dropped.values()) - 1)), 0.0


def _is_taken(rig: Rig, source: Corpus) -> float:
    """0 if the data is refused by name, with the number of its rows or the last of them."""
    try:
        source.prepare(rig)
    except DataError as error:
        counts = f"of {_NUM_ROWS}" in error.message or f"row {_NUM_ROWS}" in error.message
        return float(not (counts and "rows.jsonl" in error.message))
    return 1.0


def _measure_step(rig: Rig) -> Iterator[tuple[str, float, float]]:
    with rig.open(one_step(Cell())) as bench:
        trainer: Any = bench.trainer
        model = trainer.model
        batch = next(iter(trainer.get_train_dataloader()))
        batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        loss = trainer.compute_loss(
            model, batch, num_items_in_batch=torch.tensor(1, device=batch["labels"].device)
        )
        loss.backward()
        figure = float(loss.detach())
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        worst = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
        unknown = any(math.isnan(float(gradient.sum())) for gradient in gradients)
    yield "loss of no target", abs(figure), 0.0
    yield "gradient of no target", math.nan if unknown else worst, 0.0


ROW = Row(
    number=11,
    proves="Data without targets is refused with counts; a batch without targets has gradient 0.",
    cells=list_cells,
    run=run,
)
