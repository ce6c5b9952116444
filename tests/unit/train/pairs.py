"""Pairs of answers of a few tokens, given as probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siredon.train.pair_loss import PairScores


@dataclass(frozen=True)
class Pair:
    """The log-probabilities of the tokens of one pair, fp64; those of the policy are leaves."""

    chosen: Tensor
    rejected: Tensor
    scores: PairScores

    def gradients(self, loss: Tensor) -> tuple[list[float], list[float]]:
        """What each token of the chosen, and of the rejected answer has."""
        chosen, rejected = torch.autograd.grad(
            loss, (self.chosen, self.rejected), allow_unused=True, materialize_grads=True
        )
        return chosen.tolist(), rejected.tolist()


def make_pair(
    chosen: Sequence[float],
    rejected: Sequence[float],
    reference: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Pair:
    """One pair of the probabilities of its tokens."""
    own = [torch.tensor(each, dtype=torch.float64).log().requires_grad_() for each in (chosen, rejected)]
    fixed = [torch.tensor(each, dtype=torch.float64).log().sum()[None] for each in reference or ()]
    scores = PairScores(
        chosen=own[0].sum()[None],
        rejected=own[1].sum()[None],
        reference_chosen=fixed[0] if fixed else None,
        reference_rejected=fixed[1] if fixed else None,
        chosen_tokens=torch.tensor([len(chosen)]),
        rejected_tokens=torch.tensor([len(rejected)]),
    )
    return Pair(own[0], own[1], scores)


def draw_scores(
    num: int, seed: int = 0, *, scale: float = 4.0, dtype: torch.dtype = torch.float64
) -> PairScores:
    """Random scores of pairs, those of the policy with gradient."""
    torch.manual_seed(seed)
    chosen, rejected, first, second = (
        torch.randn(4, num, dtype=torch.float64).mul(scale).sub(30).to(dtype).unbind()
    )
    return PairScores(
        chosen=chosen.clone().requires_grad_(),
        rejected=rejected.clone().requires_grad_(),
        reference_chosen=first,
        reference_rejected=second,
        chosen_tokens=torch.randint(1, 9, (num,)),
        rejected_tokens=torch.randint(1, 9, (num,)),
    )


def take(scores: PairScores, places: Tensor) -> PairScores:
    """Some of the pairs, as a micro-batch of their own."""
    assert scores.reference_chosen is not None
    assert scores.reference_rejected is not None
    return PairScores(
        chosen=scores.chosen[places],
        rejected=scores.rejected[places],
        reference_chosen=scores.reference_chosen[places],
        reference_rejected=scores.reference_rejected[places],
        chosen_tokens=scores.chosen_tokens[places],
        rejected_tokens=scores.rejected_tokens[places],
    )
