"""What losses over pairs of answers are made of: scores, options, and how several losses become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siredon.config.shelves import PAIR_LOSSES


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
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """Log-probability of the chosen answers over that by the reference model, [P]."""
        assert self.reference_chosen is not None
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """The same of the rejected answers, [P]."""
        assert self.reference_rejected is not None
        return self.rejected - self.reference_rejected

    @property
    def margin(self) -> Tensor:
        """By how much the chosen answers have gained more than the rejected ones, [P]."""
        return self.chosen_ratio - self.rejected_ratio


@dataclass(frozen=True)
class PairOptions:
    """Settings of the losses; each says which of them it reads.

    Args:
        beta: How strongly the policy is held to the reference model (`rl_beta`).
        label_smoothing: The fraction of pairs whose judgement is taken to be the wrong way round.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class PairLoss:
    """A loss over pairs, one file on the shelf `pair_losses/`.

    Args:
        run: Scores and options -> what each pair adds, [P], with gradient.
        needs_reference: Whether it compares with a reference model.
    """

    run: Callable[[PairScores, PairOptions], Tensor]
    needs_reference: bool = True


@dataclass(frozen=True)
class Term:
    """A loss and what it counts in the sum of several."""

    loss: PairLoss
    weight: float = 1.0


@dataclass(frozen=True)
class LossParts:
    """What pairs add to the loss of their step, before it is divided.

    Args:
        per_pair: What is divided by the number of pairs, [P].
        per_token: What is divided by the number of chosen tokens, [P]; None if nothing is.
    """

    per_pair: Tensor
    per_token: Tensor | None = None


def load_terms(words: Sequence[str], weights: Sequence[float] | None = None) -> tuple[Term, ...]:
    """The losses of `dpo_loss_type`, with those of `dpo_loss_weights`, by default 1 each."""
    counted = [1.0] * len(words) if weights is None else weights
    return tuple(Term(PAIR_LOSSES.load(word), weight) for word, weight in zip(words, counted, strict=True))


def combine(terms: Sequence[Term], scores: PairScores, options: PairOptions) -> LossParts:
    """The weighted sum of several losses."""
    total = torch.zeros_like(scores.chosen)
    for term in terms:
        total = total + term.weight * term.loss.run(scores, options)
    return LossParts(total)
