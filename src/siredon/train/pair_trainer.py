"""`SiredonTrainer` over pairs of answers: log-probabilities, rewards, and the losses of `pair_losses/`.

A batch holds samples: each chosen answer behind its prompt, and behind it the rejected one, isolated from each other
as packed documents are.  So packing, padding, accumulation and ranks are those of supervised training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siredon.config.sections.preference import PAIR_MEASURES
from siredon.data.pairs import PAIR
from siredon.data.types import IGNORE, Batch
from siredon.train.losses import target_log_probs
from siredon.train.pair_loss import LossParts, PairOptions, PairScores, Term, combine
from siredon.train.reference import Reference
from siredon.train.trainer import SiredonTrainer, shift_labels


@dataclass(frozen=True)
class Objective:
    """What is learned of pairs.

    Args:
        terms: The losses, with their weights.
        options: Their settings.
    """

    terms: tuple[Term, ...]
    options: PairOptions

    @property
    def needs_reference(self) -> bool:
        """Whether any of the losses compares with a reference model."""
        return any(term.loss.needs_reference for term in self.terms)

    def run(self, scores: PairScores) -> LossParts:
        """What pairs add to the loss of their step."""
        return combine(self.terms, scores, self.options)

    def measure(self, scores: PairScores) -> Tensor:
        """`PAIR_MEASURES` of each pair, [P, 8], fp64, without gradient."""
        reference = scores.reference_chosen, scores.reference_rejected
        chosen, rejected = (
            self.options.beta * (policy.detach() - (0.0 if other is None else other))
            for policy, other in zip((scores.chosen, scores.rejected), reference, strict=True)
        )
        found = (
            chosen,
            rejected,
            chosen > rejected,
            chosen - rejected,
            scores.chosen.detach(),
            scores.rejected.detach(),
            scores.chosen_tokens,
            scores.rejected_tokens,
        )
        return torch.stack([values.double() for values in found], dim=1)


class PairTrainer(SiredonTrainer):
    """Learns from pairs of answers.

    Args:
        objective: What is learned of them.
        options: What `SiredonTrainer` takes.
    """

    chunks_everywhere = True
    num_items = 2

    def __init__(self, *, objective: Objective, **options: Any) -> None:
        super().__init__(**options)
        self.objective = objective
        #: The model that the policy is compared with; None where batches say what is known of it, or none is needed.
        self.reference: Reference | None = None
        self._sums["pairs"] = self._zeros(1 + len(PAIR_MEASURES))

    @property
    def needs_reference(self) -> bool:
        """Whether the policy is compared with a reference model."""
        return self.objective.needs_reference

    def count_items(self, batch: Batch) -> Tensor:
        """Pairs, and learned tokens of their chosen answers."""
        chosen = (batch["labels"] != IGNORE) & (batch["samples"] % 2 == 0)
        tokens = chosen.sum()
        return torch.stack([tokens.new_full((), len(batch["packs"]) // 2), tokens])

    def sum_losses(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The loss summed over pairs; what is a mean over tokens is brought to the same divisor."""
        scores = self.score_pairs(model, inputs)
        parts = self.objective.run(scores)
        measures = self.objective.measure(scores).sum(0)
        self._sums["pairs"] += torch.cat([measures.new_full((1,), len(scores.chosen)), measures])
        total = parts.per_pair.sum()
        if parts.per_token is not None:
            pairs, chosen_tokens = self.step_items
            total = total + parts.per_token.sum() * pairs / chosen_tokens
        return total

    def score_pairs(self, model: torch.nn.Module, inputs: Batch) -> PairScores:
        """How likely the policy and the reference model make the answers of a batch."""
        reference = self._score_reference(inputs)
        with self._noise_on(inputs):
            policy = self.score_samples(model, inputs)
        learned = (inputs["labels"] != IGNORE).long()
        tokens = _sum_by_sample(learned, inputs["samples"], len(inputs["packs"]))
        return PairScores(
            policy[0::2],
            policy[1::2],
            None if reference is None else reference[0::2],
            None if reference is None else reference[1::2],
            tokens[0::2],
            tokens[1::2],
        )

    def _score_reference(self, inputs: Batch) -> Tensor | None:
        """Log-probabilities of the samples of a batch by the reference model, [S]; None without one."""
        if not self.needs_reference:
            return None
        if self.reference is None:
            return inputs["reference"]
        model = self.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.weights_away(), self.reference.standing_in():
                return self.score_samples(model, inputs)
        finally:
            model.train(was_training)

    def score_samples(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The log-probability of what is learned of each sample of a batch, [S], fp32, with gradient."""
        samples, num_samples = inputs["samples"], len(inputs["packs"])
        if self.chunked is None:
            logits, targets, places = self._predict(model, inputs)
            return _sum_by_sample(target_log_probs(logits, targets), samples[:, places], num_samples)
        targets = shift_labels(inputs["labels"])
        found = self.chunked.log_probs(
            lambda: self.run_model(model, inputs), targets, self.find_count(inputs)
        )
        # No first token of a sample is a target: a target is of the sample of the token that predicts it
        return _sum_by_sample(found, samples, num_samples)

    def score_groups(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Log-probabilities of both samples of each group of a batch, [groups, 2]."""
        return self.score_samples(model, inputs).view(-1, PAIR)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss what was measured of the pairs since the last one."""
        if "loss" in logs:
            count, *sums = self.take_sums_("pairs").tolist()
            if count:
                logs |= {name: total / count for name, total in zip(PAIR_MEASURES, sums, strict=True)}
        super().log(logs, start_time)

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Of each pack, [packs, K]: pairs, chosen tokens, both parts of the loss, and `PAIR_MEASURES`, summed."""
        scores = self.score_pairs(model, inputs)
        parts = self.objective.run(scores)
        per_token = torch.zeros_like(parts.per_pair) if parts.per_token is None else parts.per_token
        counts = torch.ones_like(scores.chosen_tokens), scores.chosen_tokens
        first = torch.stack([values.double() for values in (*counts, parts.per_pair, per_token)], dim=1)
        rows = torch.cat([first, self.objective.measure(scores)], dim=1)
        sums = rows.new_zeros(len(inputs["num_tokens"]), rows.shape[1])
        return sums.index_add_(0, inputs["packs"][0::2], rows)

    def name_measures(self, sums: Sequence[float]) -> dict[str, float]:
        """Those sums over the whole validation set -> its loss, and the means over its pairs."""
        pairs, tokens = max(1.0, sums[0]), max(1.0, sums[1])
        means = {name: total / pairs for name, total in zip(PAIR_MEASURES, sums[4:], strict=True)}
        return {"loss": sums[2] / pairs + sums[3] / tokens, **means}

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """A document by itself is no pair: of it the loss of its tokens is told."""
        if "samples" not in inputs:
            return super()._sum_rows(model, inputs)
        rows = self.measure_packs(model, inputs)
        return rows[:, 2], rows[:, 0]


def _sum_by_sample(values: Tensor, samples: Tensor, num_samples: int) -> Tensor:
    """Sums [S] of values [B, T], each of the sample whose number stands in `samples`, [B, T]; S is padding."""
    sums = values.new_zeros(num_samples + 1)
    return sums.index_add(0, samples.flatten(), values.flatten())[:num_samples]
