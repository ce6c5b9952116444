"""`dpo_loss_type: apo_down`: anchored: both answers get less likely, rejected ones more so.

With `c` and `r` beta times the logarithm of how much more likely than by the reference model the chosen and the
rejected answer are: `sigmoid(c) + 1 - sigmoid(c - r)`.

Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions", 2024,
https://arxiv.org/abs/2408.06266, equation 8, and 1, so that it is never negative.
When: the model writes better than the chosen answers.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    return (options.beta * scores.chosen_ratio).sigmoid() + (-options.beta * scores.margin).sigmoid()


LOSS = PairLoss(_run)
