"""`dpo_loss_type: exo_pair`: the reverse Kullback-Leibler divergence from smoothed judgements.

With `h` the margin (`sigmoid`), `q = sigmoid(beta h)` and `e` the label smoothing, which is above 0:

    q log(q / (1 - e)) + (1 - q) log((1 - q) / e)

Source: Ji et al., "Towards Efficient Exact Optimization of Language Model Alignment", 2024,
https://arxiv.org/abs/2402.00856, equation 16 for two answers; the paper takes e = 0.001.
When: the policy is to settle on the best answers, and not to spread over all good ones.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    smoothing = options.label_smoothing
    if not smoothing:
        raise ValueError("`exo_pair` needs a `label_smoothing` above 0, such as 0.001")
    logits = options.beta * scores.margin
    right = logits.sigmoid() * (functional.logsigmoid(logits) - math.log1p(-smoothing))
    wrong = (-logits).sigmoid() * (functional.logsigmoid(-logits) - math.log(smoothing))
    return right + wrong


LOSS = PairLoss(_run)
