"""Pairs of answers, one by one: their texts, and what a model makes of both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from siredon.data.collate import PackDataset
from siredon.data.pairs import PAIR
from siredon.data.table import JoinedTable
from siredon.data.types import IGNORE, Sample
from siredon.evaluate.rows import Rows
from siredon.train.pair_loss import PairScores
from siredon.train.pair_trainer import PairTrainer
from siredon.train.reward_trainer import RewardTrainer
from siredon.train.step_scores import score_table

#: How many pairs of each split are written down where nobody says.
NUM_SAMPLES = 20
#: The margin of a policy, and that of a model that gives scores.
LOG_MARGIN, REWARD_MARGIN = "logps/margins", "rewards/margins"


@dataclass(frozen=True)
class PairSample:
    """A pair under one model.

    Args:
        split: `training` or `validation`.
        source: Its data set.
        row: Which pair of the split it is, from 0.
        prompt: What stands before both answers, with special tokens.
        plain_prompt: The same without, for a line of a terminal.
        chosen: The better answer, without.
        rejected: The worse one.
        measures: Of a policy `logps/chosen`, `logps/rejected`, `logps/margins` (nats, summed over the answer and its
            stop token) and `rewards/margins`; of a model that gives scores `rewards/chosen`, `rewards/rejected` and
            `rewards/margins`.  Means of them over all pairs are what a validation says.
    """

    split: str
    source: str
    row: int
    prompt: str
    plain_prompt: str
    chosen: str
    rejected: str
    measures: dict[str, float]

    @property
    def margin_name(self) -> str:
        """The measure that says how far the model tells both sides apart."""
        return LOG_MARGIN if LOG_MARGIN in self.measures else REWARD_MARGIN


@dataclass(frozen=True)
class MovedPair:
    """A pair before and after the training."""

    start: PairSample
    tuned: PairSample

    @property
    def change(self) -> float:
        """By how much its margin has grown."""
        name = self.start.margin_name
        return self.tuned.measures[name] - self.start.measures[name]

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        one = self.start
        return {
            "split": one.split,
            "source": one.source,
            "row": one.row,
            "prompt": one.prompt,
            "chosen": one.chosen,
            "rejected": one.rejected,
            "start": one.measures,
            "tuned": self.tuned.measures,
            "change": self.change,
        }


def take_samples(
    trainer: PairTrainer | RewardTrainer, tokenizer: Any, rows: Rows, limit: int
) -> tuple[PairSample, ...]:
    """The first pairs of a split, as the model of a trainer sees them: one more pass over these.

    Args:
        trainer: Holds the model.
        tokenizer: Of the model.
        rows: The pairs; where a reference is needed, with what is known of them by it.
        limit: How many pairs.
    """
    # Packing changes the order in which pairs are run, and not which of them are first
    places = np.unique(rows.packs.packs.indices)[:limit]
    table = rows.packs.table
    assert isinstance(table, JoinedTable)
    scores = score_table(trainer, table, trainer.model, places).reshape(-1, PAIR)[places]
    measured = (
        _measure_policy(trainer, rows.packs, places, scores)
        if isinstance(trainer, PairTrainer)
        else [_measure_scores(*pair) for pair in scores.tolist()]
    )
    return tuple(
        PairSample(
            rows.split,
            rows.sources[table.table_of(int(place))],
            number,
            *_read_texts(tokenizer, *table.take(int(place))),
            measures,
        )
        for number, (place, measures) in enumerate(zip(places, measured, strict=True))
    )


def pair_up(start: tuple[PairSample, ...], tuned: tuple[PairSample, ...]) -> tuple[MovedPair, ...]:
    """The same pairs before and after."""
    return tuple(MovedPair(one, other) for one, other in zip(start, tuned, strict=True))


def _measure_policy(
    trainer: PairTrainer, packs: PackDataset, places: Any, scores: Any
) -> list[dict[str, float]]:
    """Log-probabilities of both sides, [P, 2] -> what a validation would measure of each pair."""
    pairs = [packs.table.take(int(place)) for place in places]
    tokens = torch.tensor([[side.num_targets for side in pair] for pair in pairs])
    chosen, rejected = torch.from_numpy(scores).unbind(1)
    found = PairScores(chosen, rejected, None, None, tokens[:, 0], tokens[:, 1])
    if trainer.needs_reference:
        known = torch.tensor([[side.reference for side in pair] for pair in pairs], dtype=torch.float32)
        found = replace(found, reference_chosen=known[:, 0], reference_rejected=known[:, 1])
    # Neither is asked of single pairs
    objective = replace(trainer.objective, entropies=False, divergences=False)
    each = [dict(zip(objective.measures, row, strict=True)) for row in objective.measure(found).tolist()]
    return [
        {
            "logps/chosen": one["logps/chosen"],
            "logps/rejected": one["logps/rejected"],
            LOG_MARGIN: one["logps/chosen"] - one["logps/rejected"],
            REWARD_MARGIN: one[REWARD_MARGIN],
        }
        for one in each
    ]


def _measure_scores(chosen: float, rejected: float) -> dict[str, float]:
    return {"rewards/chosen": chosen, "rewards/rejected": rejected, REWARD_MARGIN: chosen - rejected}


def _read_texts(tokenizer: Any, chosen: Sample, rejected: Sample) -> tuple[str, str, str, str]:
    """Prompt, with special tokens and without, and answers of a pair."""
    begin = int(np.argmax(chosen.labels != IGNORE))
    prompt = chosen.input_ids[:begin]
    plain = (prompt, chosen.input_ids[begin:], rejected.input_ids[begin:])
    texts = (tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in plain)
    return (tokenizer.decode(prompt), *texts)
