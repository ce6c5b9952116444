"""`rl: orpo`: chosen answers are imitated, and their odds raised over those of rejected ones, in one training.

With `c` and `r` the mean log-probabilities of the tokens of the chosen and the rejected answer, and the logarithm of
odds `o(x) = x - log(1 - exp(x))`:

    (mean over chosen tokens of -log p) - alpha log sigmoid(o(c) - o(r))

Source: Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024,
https://arxiv.org/abs/2403.07691, equations 4, 6 and 7.  What is imitated is the answer, as there; TRL imitates the
prompt too.
When: a base model is to learn the task and the preferences at once, without a reference model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from siredon.train.pair_loss import LossParts, PairScores, logistic


@dataclass(frozen=True)
class OrpoOptions:
    """Settings.

    Args:
        alpha: Weight of the odds (`orpo_alpha`), lambda in the paper.
    """

    alpha: float = 0.1


def orpo_loss(scores: PairScores, options: OrpoOptions) -> LossParts:
    """What pairs add to the loss of their step: odds per pair, imitation per token of the chosen answers."""
    chosen, rejected = scores.per_token(scores.chosen, scores.rejected)
    return LossParts(options.alpha * logistic(log_odds(chosen) - log_odds(rejected)), -scores.chosen)


def log_odds(log_probs: Tensor) -> Tensor:
    """`log(p / (1 - p))` of log-probabilities, at most 0, any shape.

    `1 - p` is `-expm1(log p)`, which is exact near p = 1.  Near p = 0, where it is rounded to 1, its logarithm is added
    to one that is far larger, so a second formula for there gains nothing, and would add what is no number to the
    gradient.  A log-probability of exactly 0 is taken as the next number below, without gradient.
    """
    below = log_probs.clamp(max=-torch.finfo(log_probs.dtype).tiny)
    return below - torch.log(-torch.expm1(below))
