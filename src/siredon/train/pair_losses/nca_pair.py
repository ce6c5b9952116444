"""`dpo_loss_type: nca_pair`: contrast with noise; the chosen answer gets no less likely.

With `c` and `r` beta times the logarithm of how much more likely than by the reference model the chosen and the
rejected answer are:

    -log sigmoid(c) - log sigmoid(-c) / 2 - log sigmoid(-r) / 2

Source: Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024,
https://arxiv.org/abs/2402.05369, NCA for two answers.
When: under sigmoid the chosen answers lose likelihood too, as in mathematics and code.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    chosen, rejected = options.beta * scores.chosen_ratio, options.beta * scores.rejected_ratio
    noise = functional.logsigmoid(-chosen) + functional.logsigmoid(-rejected)
    return -functional.logsigmoid(chosen) - 0.5 * noise


LOSS = PairLoss(_run)
