"""`dpo_loss_type: bco_pair`: a classifier of good and bad answers, each by itself.

With `c` and `r` beta times the logarithm of how much more likely than by the reference model the chosen and the
rejected answer are:

    -log sigmoid(c) - log sigmoid(-r)

Source: Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", 2024,
https://arxiv.org/abs/2404.04656, without the shift of rewards, as in TRL 1.16.
When: chosen answers are good and rejected ones bad in themselves; beside sigmoid, for what is good and not only better.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    chosen, rejected = options.beta * scores.chosen_ratio, options.beta * scores.rejected_ratio
    return -functional.logsigmoid(chosen) - functional.logsigmoid(-rejected)


LOSS = PairLoss(_run)
