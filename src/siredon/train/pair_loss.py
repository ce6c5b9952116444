"""What losses over pairs of answers are made of: scores, options, and how several losses become one.

A loss is exact over the optimizer step: what it averages is averaged over the whole step, on all ranks, whatever the
micro-batches.  So a loss gives one number per pair, which only have to be added up, and says what their sum is divided
by (`PairLoss.divisor`):

- `pairs`: the number of pairs of the step.  Most losses.
- `chosen_tokens`: the number of learned tokens in the chosen answers of the step.  `sft`, an average over tokens.

`combine` keeps both sums apart, and `LossParts.share` divides them by the counts of the step, which are known before
its first forward pass, as they are counts of labels.

The losses of `needs_step`, which match pairs with each other (`aot`, `aot_unpaired`), need more: the scores of all
pairs of the step (`StepScores`), so a forward pass over the whole step without gradients, before the first one with
them.  Given these, they too are numbers per pair with the value and the gradient of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from siredon.config.shelves import PAIR_LOSSES


@dataclass(frozen=True)
class StepScores:
    """Scores of all pairs of an optimizer step, on all ranks in their order, without gradients.

    Args:
        chosen: Summed log-probabilities of the chosen answers, [S].
        rejected: Those of the rejected answers, [S].
        reference_chosen: Those of the chosen answers by the reference model, [S].
        reference_rejected: Those of the rejected answers by it, [S].
        places: Where the pairs of this batch are among them, [P].
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    places: Tensor


@dataclass(frozen=True)
class PairScores:
    """How likely the answers of P pairs are, each a sum over the learned tokens of the answer.

    Args:
        chosen: Log-probabilities of the chosen answers, [P], fp32, with gradient.
        rejected: Those of the rejected answers, [P].
        reference_chosen: Those of the chosen answers by the reference model, [P]; None without one.
        reference_rejected: Those of the rejected answers by it, [P].
        chosen_tokens: Learned tokens of the chosen answers, [P].
        rejected_tokens: Those of the rejected answers, [P].
        weights: What each pair counts, [P], without gradient (`pair_weights.weigh_pairs`); None is 1 for all.
        step: The scores of the whole step, for losses of `needs_step`; without them this batch is taken for it.
        entropies: Entropies of the softmax that each learned token is drawn from, summed over the chosen and over the
            rejected answers, two of [P], without gradient; None where nobody asks.
        divergences: Divergences of that softmax from the reference model's, in the same way.

    Raises:
        ValueError: Scores are in half precision, where a sum of hundreds of log-probabilities has an error of whole
            units; or there is not one number for each pair.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    weights: Tensor | None = None
    step: StepScores | None = None
    entropies: tuple[Tensor, Tensor] | None = None
    divergences: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        scores = (self.chosen, self.rejected, self.reference_chosen, self.reference_rejected, self.weights)
        given = [score for score in scores if score is not None]
        for score in given:
            if score.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"scores of pairs are in {score.dtype}: add log-probabilities up in fp32")
        measured = (*(self.entropies or ()), *(self.divergences or ()))
        for each in (*given, self.chosen_tokens, self.rejected_tokens, *measured):
            if each.shape != self.chosen.shape or each.ndim != 1:
                raise ValueError(f"scores of shape {[*each.shape]} for {len(self.chosen)} pairs")

    @property
    def chosen_ratio(self) -> Tensor:
        """Log-probability of the chosen answers over that by the reference model, [P]."""
        return self.chosen - self._reference(self.reference_chosen)

    @property
    def rejected_ratio(self) -> Tensor:
        """The same of the rejected answers, [P]."""
        return self.rejected - self._reference(self.reference_rejected)

    @property
    def margin(self) -> Tensor:
        """By how much the chosen answers have gained more than the rejected ones, [P]."""
        return self.chosen_ratio - self.rejected_ratio

    def per_token(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the tokens of the answers as means; an answer without tokens has the mean 0, as its sum."""
        return chosen / self.chosen_tokens.clamp(min=1), rejected / self.rejected_tokens.clamp(min=1)

    def of_step(self) -> StepScores:
        """The scores of the whole step; those of this batch, if no others are known."""
        if self.step is not None:
            return self.step
        return StepScores(
            self.chosen.detach(),
            self.rejected.detach(),
            self._reference(self.reference_chosen),
            self._reference(self.reference_rejected),
            torch.arange(len(self.chosen), device=self.chosen.device),
        )

    @staticmethod
    def _reference(scores: Tensor | None) -> Tensor:
        if scores is None:
            raise ValueError("this loss compares with a reference model, and there are no scores of one")
        return scores.detach()


@dataclass(frozen=True)
class PairOptions:
    """Settings of the losses; each says which of them it reads.

    Args:
        beta: How strongly the policy is held to the reference model (`rl_beta`).  Larger holds closer.
        label_smoothing: The fraction of pairs whose judgement is taken to be the wrong way round.
        discopop_tau: Where `discopop` goes over from one of its two losses to the other, and how fast.

    Raises:
        ValueError: `beta` is not above 0, `label_smoothing` is not in [0, 1/2), or `discopop_tau` not in (0, 1).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}, and must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, and must be in [0, 0.5)")
        if not 0 < self.discopop_tau < 1:
            raise ValueError(f"discopop_tau is {self.discopop_tau}, and must be between 0 and 1")


@dataclass(frozen=True)
class PairLoss:
    """A loss over pairs, one file on the shelf `pair_losses/`.

    Args:
        run: Scores and options -> what each pair adds, [P], with gradient.
        needs_reference: Whether it compares with a reference model.
        divisor: What the sum over the whole step is divided by.
        needs_step: Whether pairs are matched with others of the step, so that it needs `PairScores.step`.
    """

    run: Callable[[PairScores, PairOptions], Tensor]
    needs_reference: bool = True
    divisor: Literal["pairs", "chosen_tokens"] = "pairs"
    needs_step: bool = False


@dataclass(frozen=True)
class Term:
    """A loss and what it counts in the sum of several."""

    loss: PairLoss
    weight: float = 1.0


@dataclass(frozen=True)
class StepCounts:
    """What is averaged over: counts of the whole optimizer step, on all ranks, none of them 0.

    Args:
        pairs: Pairs; a number, or a scalar on the device.
        chosen_tokens: Learned tokens of their chosen answers.
    """

    pairs: Tensor | int
    chosen_tokens: Tensor | int


@dataclass(frozen=True)
class LossParts:
    """What pairs add to the loss of their step, before it is divided.

    Sums over all batches and ranks, divided by the counts, are the loss: so a validation adds up both, and divides at
    its end.

    Args:
        per_pair: What is divided by the number of pairs, [P].
        per_token: What is divided by the number of chosen tokens, [P]; None if nothing is.
    """

    per_pair: Tensor
    per_token: Tensor | None = None

    def share(self, counts: StepCounts) -> Tensor:
        """What these pairs are of the step's loss, a scalar; the shares of all batches and ranks add up to it."""
        share = self.per_pair.sum() / counts.pairs
        if self.per_token is not None:
            share = share + self.per_token.sum() / counts.chosen_tokens
        return share


def load_terms(words: Sequence[str], weights: Sequence[float] | None = None) -> tuple[Term, ...]:
    """The losses of `dpo_loss_type`, with those of `dpo_loss_weights`, by default 1 each.

    Raises:
        UnknownPartError: There is no such loss.
        ValueError: There is not one weight for each loss.
    """
    counted = [1.0] * len(words) if weights is None else weights
    return tuple(Term(PAIR_LOSSES.load(word), weight) for word, weight in zip(words, counted, strict=True))


def combine(terms: Sequence[Term], scores: PairScores, options: PairOptions) -> LossParts:
    """The weighted sum of several losses, each times the weight of its pair.

    Where `S` are all pairs of the step and `w` the weights of pairs, the loss of the step is
    `sum over terms of weight * sum(w[S] * losses[S]) / divisor`, which the shares of its batches add up to.

    Raises:
        ValueError: A loss needs a reference model, and the scores have none.
    """
    per_pair, per_token = torch.zeros_like(scores.chosen), None
    for term in terms:
        losses = term.weight * term.loss.run(scores, options)
        if scores.weights is not None:
            losses = losses * scores.weights.detach()
        if term.loss.divisor == "pairs":
            per_pair = per_pair + losses
        else:
            per_token = losses if per_token is None else per_token + losses
    return LossParts(per_pair, per_token)


def logistic(values: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Equals `-(1 - e) log sigmoid(x) - e log sigmoid(-x)`, for a judgement that is wrong with probability `e`."""
    losses = -functional.logsigmoid(values)
    if not label_smoothing:
        return losses
    return (1 - label_smoothing) * losses - label_smoothing * functional.logsigmoid(-values)


def match_ranks(values: Tensor, others: Tensor) -> Tensor:
    """For each value, [S], the one of the others, [S], that has its rank; of equal ones the earlier is the lower."""
    matched = torch.empty_like(others)
    matched[values.argsort(stable=True)] = others.sort(stable=True).values
    return matched
