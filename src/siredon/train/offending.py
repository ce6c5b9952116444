"""The rows of a bad step, written down for a look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.data.collate import PackDataset
from siredon.data.table import JoinedTable
from siredon.data.types import IGNORE, Batch
from siredon.distributed.ranks import num_ranks, rank
from siredon.train.space import explain_disk
from siredon.train.trainer import SiredonTrainer


@dataclass(frozen=True)
class Offence:
    """What is known of a bad step.

    Args:
        step: Its number, from 1.
        why: What is bad, in words.
        loss: Of the step, over all ranks.
        grad_norm: Of its gradient, before clipping.
    """

    step: int
    why: str
    loss: float
    grad_norm: float


def write_rows(trainer: SiredonTrainer, offence: Offence, folder: Path, sources: tuple[str, ...]) -> Path:
    """Writes the rows of a step that this rank has, one a line, and says where.

    A row's loss is the mean over its targets, by itself, with the weights as they are now and without dropout.

    Args:
        trainer: Whose `batches` are those of the step.
        offence: What is known of it.
        folder: Where the file goes.
        sources: Names of the data sets, by number.

    Raises:
        CheckpointError: The file cannot be written.
    """
    of_rank = f".rank{rank()}" if num_ranks() > 1 else ""
    path = folder / f"step-{offence.step:06d}{of_rank}.jsonl"
    facts = {
        "step": offence.step,
        "why": offence.why,
        "step_loss": offence.loss,
        "grad_norm": offence.grad_norm,
    }
    was_training = trainer.model.training
    trainer.model.eval()
    with explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as stream:
            for number, batch in enumerate(trainer.batches):
                for row in _describe_batch(trainer, batch, sources):
                    line = {**facts, "micro_batch": number, **row}
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    trainer.model.train(was_training)
    return path


def _describe_batch(
    trainer: SiredonTrainer, batch: Batch, sources: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    for number, (row, begin, end) in enumerate(_find_documents(batch)):
        ids, labels = batch["input_ids"][row, begin:end], batch["labels"][row, begin:end]
        learned = labels != IGNORE
        yield {
            "row": number,
            "loss": _measure_loss(trainer, ids, labels),
            "num_tokens": len(ids),
            "num_targets": int(learned.sum()),
            **_find_origin(trainer.train_dataset, ids.tolist(), sources),
            "text": trainer.processing_class.decode(ids.tolist()),
            "input_ids": ids.tolist(),
            "learned": learned.long().tolist(),
        }


def _measure_loss(trainer: SiredonTrainer, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean loss of one document by itself: in a pack, a NaN of one is in all, as 0 times NaN is NaN."""
    places = torch.arange(len(ids), device=ids.device)
    alone = Batch(
        input_ids=ids[None],
        labels=labels[None],
        position_ids=places[None],
        num_tokens=torch.tensor([len(ids)], device=ids.device),
    )
    return trainer.measure_row(alone)


def _find_documents(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """Row of the batch, first token and end of each document: positions begin anew with it, and padding is none."""
    lengths = batch["num_tokens"].tolist()
    rows = batch["position_ids"].tolist()
    if len(rows) < len(lengths):
        lengths = [sum(lengths)]
    for row, (positions, length) in enumerate(zip(rows, lengths, strict=True)):
        starts = [place for place, position in enumerate(positions[:length]) if position == 0]
        for begin, end in zip(starts, [*starts[1:], length], strict=True):
            yield row, begin, end


def _find_origin(dataset: Any, ids: list[int], sources: tuple[str, ...]) -> dict[str, Any]:
    """The number of a row in the prepared data, and its data set; nothing where rows are not kept, as of a stream."""
    if not isinstance(dataset, PackDataset):
        return {}
    table = dataset.table
    lengths = table.sample_lengths if isinstance(table, JoinedTable) else table.lengths[:, None]
    for index, place in zip(*(lengths == len(ids)).nonzero(), strict=True):
        sample = table.take(int(index))[place]
        if sample.input_ids.tolist() == ids:
            # Rows of several data sets that are not mixed lie in one table, which does not tell them apart
            is_told = len(sources) == 1 or isinstance(table, JoinedTable)
            return {"prepared_row": int(index)} | ({"dataset": sources[sample.source]} if is_told else {})
    return {}
