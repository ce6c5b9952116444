"""Scores of all pairs of an optimizer step, on all ranks, and of a whole validation set, without gradients.

For losses that match pairs with each other: which pair is matched with which is known only once all are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from siredon.data.collate import Collator, PackDataset
from siredon.data.table import JoinedTable, References
from siredon.data.types import IGNORE, Batch
from siredon.distributed.ranks import num_ranks, rank
from siredon.train.pair_loss import PairScores, StepScores

if TYPE_CHECKING:
    from siredon.train.pair_trainer import PairTrainer
    from siredon.train.reward_trainer import RewardTrainer


def score_step(trainer: PairTrainer, batches: Sequence[Batch]) -> StepScores:
    """Scores of a step, before its first pass with gradients; all ranks must ask for it.

    Each batch is told `places`, where its samples are among those of the step, and what the reference model thinks of
    them, so that it need not be asked again.

    Args:
        trainer: Holds the model, as it is before the step.
        batches: The micro-batches of the step, on this rank.
    """
    found: list[Tensor] = []
    for batch in batches:
        with trainer.scoring(batch), trainer.compute_loss_context_manager():
            scores = trainer.score_pairs(trainer.model, trainer._prepare_inputs(batch), only_scores=True)
            reference = scores.reference_chosen, scores.reference_rejected
            assert reference[0] is not None
            assert reference[1] is not None
            batch["reference"] = torch.stack([reference[0], reference[1]], dim=1).flatten()
            found.append(torch.stack([scores.chosen, scores.rejected, reference[0], reference[1]], dim=1))
    own = torch.cat(found) if found else torch.zeros(0, 4, device=trainer.args.device)
    whole, start = _gather(trainer, own)
    for batch, rows in zip(batches, found, strict=True):
        batch["places"] = torch.arange(start, start + len(rows), device=whole.device).repeat_interleave(2)
        start += len(rows)
    chosen, rejected, first, second = whole.unbind(1)
    return StepScores(chosen, rejected, first, second, torch.arange(len(whole), device=whole.device))


def take_places(step: StepScores, batch: Batch) -> StepScores:
    """The same scores, for the pairs of a batch."""
    return replace(step, places=batch["places"][0::2])


def _gather(trainer: PairTrainer, own: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks, [S, K], in the order of ranks, of whom each has another number; where those of this begin."""
    if num_ranks() == 1:
        return own, 0
    accelerator: Any = trainer.accelerator
    sizes = accelerator.gather(torch.tensor([len(own)], device=own.device)).tolist()
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own
    rows = accelerator.gather(padded).split(max(sizes))
    return torch.cat([each[:size] for each, size in zip(rows, sizes, strict=True)]), sum(sizes[: rank()])


def score_set(trainer: PairTrainer, dataset: PackDataset) -> PairScores:
    """Scores of all pairs of a data set by the model as it is now; all ranks must ask for it, and each has all."""
    table = dataset.table
    assert isinstance(table, JoinedTable)
    # Rows that are held out lie in one table with those that are trained on
    rows = np.unique(dataset.packs.indices)

    def choose(scores: References) -> Tensor:
        return torch.from_numpy(np.asarray(scores).reshape(len(table), -1)[rows].flatten())

    policy = choose(score_table(trainer, table, trainer.model, rows))
    if trainer.reference is None:
        assert table.reference is not None
        reference = choose(table.reference)
    else:
        with trainer.reference.standing_in():
            reference = choose(score_table(trainer, table, trainer.reference.model, rows))
    samples = (sample for index in rows for sample in table.take(int(index)))
    tokens = torch.tensor([int((sample.labels != IGNORE).sum()) for sample in samples])
    return PairScores(
        policy[0::2], policy[1::2], reference[0::2], reference[1::2], tokens[0::2], tokens[1::2]
    )


def score_table(
    trainer: PairTrainer | RewardTrainer,
    table: JoinedTable,
    model: Any,
    rows: npt.NDArray[np.int64] | None = None,
) -> References:
    """Log-probabilities of the samples of a table by a model as it is now, [N]; each rank computes a part of them.

    Of a model that gives scores, its scores.  If rows are given, those of others are 0.
    """
    collator: Any = trainer.data_collator
    assert isinstance(collator, Collator)
    size = trainer.args.eval_batch_size
    # Alike in length: little padding; and the largest batch first
    order = np.argsort(-table.lengths, kind="stable")
    order = order if rows is None else order[np.isin(order, rows)]
    own = order[rank() :: num_ranks()]
    device = trainer.args.device
    values = torch.zeros(table.sample_lengths.shape, dtype=torch.float32, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(own), size):
            chosen = own[start : start + size]
            batch: Any = trainer._prepare_inputs(collator([table.take(int(index)) for index in chosen]))
            values[torch.from_numpy(chosen).to(device)] = trainer.score_groups(model, batch)
    model.train(was_training)
    if num_ranks() > 1:
        values = trainer.accelerator.reduce(values, reduction="sum")
    found: References = values.flatten().cpu().numpy()
    return found
