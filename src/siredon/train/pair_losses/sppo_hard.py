"""`dpo_loss_type: sppo_hard`: self-play; either answer is drawn to a fixed distance from the reference model.

With `c` and `r` the logarithms of how much more likely than by the reference model the chosen and the rejected answer
are: `(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2`.

Source: Wu et al., "Self-Play Preference Optimization for Language Model Alignment", 2024,
https://arxiv.org/abs/2405.00675, equation 4.7 with eta = 1 / beta, and winning probabilities of 1 and 0.
When: rounds of training on the model's own answers, the reference being the model of the round before.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    goal = 1 / (2 * options.beta)
    return (scores.chosen_ratio - goal).square() + (scores.rejected_ratio + goal).square()


LOSS = PairLoss(_run)
