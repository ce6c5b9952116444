"""`dpo_loss_type: apo_zero`: anchored: chosen answers get more likely, rejected ones less.

With `c` and `r` beta times the logarithm of how much more likely than by the reference model the chosen and the
rejected answer are: `1 - sigmoid(c) + sigmoid(r)`.

Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions", 2024,
https://arxiv.org/abs/2408.06266, equation 7, and 1, so that it is never negative.
When: the chosen answers are better than what the model writes.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    chosen, rejected = options.beta * scores.chosen_ratio, options.beta * scores.rejected_ratio
    return (-chosen).sigmoid() + rejected.sigmoid()


LOSS = PairLoss(_run)
