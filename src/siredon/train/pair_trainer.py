"""`SiredonTrainer` over pairs of answers: log-probabilities, rewards, and the losses of `pair_losses/`.

A batch holds samples: each chosen answer behind its prompt, and behind it the rejected one, isolated from each other
as packed documents are.  So packing, padding, accumulation and ranks are those of supervised training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from siredon.data.pairs import PAIR
from siredon.data.types import IGNORE, Batch
from siredon.train.objective import Objective
from siredon.train.pair_loss import PairScores, StepCounts, StepScores
from siredon.train.pair_weights import align, weigh_pairs
from siredon.train.reference import Reference
from siredon.train.step_scores import score_set, score_step, take_places
from siredon.train.token_scores import NOTHING, Asked, Prediction, score_logits
from siredon.train.trainer import SiredonTrainer, shift_labels


@dataclass(frozen=True)
class SampleSums:
    """What the samples of a batch have, summed over their learned tokens, [S] each; None for what was not asked.

    Args:
        log_probs: Log-probabilities, fp32, with gradient.
        aligned: `pair_weights.align`, without.
        entropies: Entropies, without.
        divergences: Divergences from the reference model, without.
        prediction: What the model expects in the place of each token.
    """

    log_probs: Tensor
    aligned: Tensor | None = None
    entropies: Tensor | None = None
    divergences: Tensor | None = None
    prediction: Prediction | None = None


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
        self._sums["pairs"] = self._zeros(1 + len(objective.measures))
        # Scores of the whole step in hand, where the objective needs them
        self._step: StepScores | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether the policy is compared with a reference model."""
        return self.objective.needs_reference

    def list_held(self) -> Iterator[Tensor]:
        """Those of the reference."""
        return iter(()) if self.reference is None else self.reference.list_tensors()

    def count_items(self, batch: Batch) -> Tensor:
        """Pairs, and learned tokens of their chosen answers."""
        chosen = (batch["labels"] != IGNORE) & (batch["samples"] % 2 == 0)
        tokens = chosen.sum()
        return torch.stack([tokens.new_full((), len(batch["packs"]) // 2), tokens])

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """As `SiredonTrainer`; where pairs of the step are matched with each other, all of them are scored first."""
        batches, divisor = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step = None
        if self.objective.needs_step and not self.passes_over:
            self._step = score_step(self, batches)
        return batches, divisor

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

    def score_pairs(self, model: torch.nn.Module, inputs: Batch, *, only_scores: bool = False) -> PairScores:
        """How likely the policy and the reference model make the answers of a batch, and what is measured beside it.

        Args:
            model: The policy.
            inputs: The batch.
            only_scores: Nothing is measured beside it.
        """
        compares = self.objective.divergences and not only_scores
        known = self._ask_reference(inputs, Asked(prediction=compares))
        reference = None if known is None else known.log_probs
        asked = replace(self.objective.asked, against=None if known is None else known.prediction)
        with self._noise_on(inputs):
            found = self._sum_samples(
                model, inputs, asked=replace(asked, entropies=asked.entropies and not only_scores)
            )
        policy, aligned = found.log_probs, found.aligned
        learned = (inputs["labels"] != IGNORE).long()
        tokens = _sum_by_sample(learned, inputs["samples"], len(inputs["packs"]))
        chosen_tokens, rejected_tokens = tokens[0::2], tokens[1::2]
        step = take_places(self._step, inputs) if self._step is not None and "places" in inputs else None
        return PairScores(
            policy[0::2],
            policy[1::2],
            None if reference is None else reference[0::2],
            None if reference is None else reference[1::2],
            chosen_tokens,
            rejected_tokens,
            None
            if aligned is None
            else weigh_pairs(aligned[0::2], aligned[1::2], chosen_tokens, rejected_tokens),
            step,
            _by_side(found.entropies),
            _by_side(found.divergences),
        )

    def _score_reference(self, inputs: Batch) -> Tensor | None:
        """Log-probabilities of the samples of a batch by the reference model, [S]; None without one."""
        found = self._ask_reference(inputs)
        return None if found is None else found.log_probs

    def _ask_reference(self, inputs: Batch, asked: Asked = NOTHING) -> SampleSums | None:
        """Sums over the samples of a batch by the reference model; it is run where more than is known is asked for."""
        if not self.needs_reference:
            return None
        if self.reference is None or ("reference" in inputs and not asked.prediction):
            return SampleSums(inputs["reference"])
        model = self.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.weights_away(), self.reference.standing_in():
                return self._sum_samples(self.reference.model, inputs, asked=asked)
        finally:
            model.train(was_training)

    def score_samples(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The log-probability of what is learned of each sample of a batch, [S], fp32, with gradient."""
        return self._sum_samples(model, inputs, asked=NOTHING).log_probs

    def _sum_samples(self, model: torch.nn.Module, inputs: Batch, *, asked: Asked) -> SampleSums:
        """Sums over the samples of a batch."""
        samples, num_samples = inputs["samples"], len(inputs["packs"])
        if self.chunked is None:
            logits, targets, places = self._predict(model, inputs)
            found = score_logits(logits, targets, asked)
            samples = samples[:, places]
        else:
            # No first token of a sample is a target: a target is of the sample of the token that predicts it
            targets, count = shift_labels(inputs["labels"]), self.find_count(inputs)
            found = self.chunked.log_probs(lambda: self.run_model(model, inputs), targets, count, asked)
        aligned = None if found.collisions is None else align(found.log_probs, found.collisions)

        def add_up(values: Tensor) -> Tensor:
            return _sum_by_sample(values, samples, num_samples)

        return SampleSums(
            add_up(found.log_probs),
            None if aligned is None else add_up(aligned),
            None if found.entropies is None else add_up(found.entropies),
            None if found.divergences is None else add_up(found.divergences),
            found.prediction,
        )

    def score_groups(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Log-probabilities of both samples of each group of a batch, [groups, 2]."""
        return self.score_samples(model, inputs).view(-1, PAIR)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss what was measured of the pairs since the last one."""
        if "loss" in logs:
            count, *sums = self.take_sums_("pairs").tolist()
            if count:
                logs |= {
                    name: total / count for name, total in zip(self.objective.measures, sums, strict=True)
                }
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `SiredonTrainer`; a loss that matches pairs with each other is one over the whole validation set."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self.objective.needs_step:
            dataset: Any = dataloader.dataset
            scores = score_set(self, dataset)
            parts = self.objective.run(scores)
            counts = StepCounts(len(scores.chosen), int(scores.chosen_tokens.sum()))
            assert output.metrics is not None
            output.metrics[f"{metric_key_prefix}_loss"] = parts.share(counts).item()
        return output

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Of each pack, [packs, K]: pairs, chosen tokens, both parts of the loss, and its `measures`, summed."""
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
        means = {name: total / pairs for name, total in zip(self.objective.measures, sums[4:], strict=True)}
        return {"loss": sums[2] / pairs + sums[3] / tokens, **means}

    def name_part(self, packs: Tensor) -> dict[str, float]:
        """As `SiredonTrainer`; a loss that matches pairs with each other is none of a part of them."""
        found = super().name_part(packs)
        return {
            name: value for name, value in found.items() if name != "loss" or not self.objective.needs_step
        }

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """A document by itself is no pair: of it the loss of its tokens is told."""
        if "samples" not in inputs:
            return super()._sum_rows(model, inputs)
        rows = self.measure_packs(model, inputs)
        return rows[:, 2], rows[:, 0]


def _by_side(sums: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Sums of samples, [S], as those of chosen and of rejected answers, two of [P]."""
    return None if sums is None else (sums[0::2], sums[1::2])


def _sum_by_sample(values: Tensor, samples: Tensor, num_samples: int) -> Tensor:
    """Sums [S] of values [B, T], each of the sample whose number stands in `samples`, [B, T]; S is padding."""
    sums = values.new_zeros(num_samples + 1)
    return sums.index_add(0, samples.flatten(), values.flatten())[:num_samples]
