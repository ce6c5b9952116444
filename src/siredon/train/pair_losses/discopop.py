"""`dpo_loss_type: discopop`: a blend of a logistic and an exponential loss, found by a language model.

With `x = beta h`, `h` the margin (`sigmoid`), and `s = sigmoid(x / tau)`:

    -(1 - s) log sigmoid(x) + s exp(-x)

Source: Lu et al., "Discovering Preference Optimization Algorithms with and for Large Language Models", 2024,
https://arxiv.org/abs/2406.08414, equation 5, with tau = 0.05.
When: instead of sigmoid, for comparison; it is not convex.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    logits = options.beta * scores.margin
    mixed = logits / options.discopop_tau
    # exp(-x) alone is infinite where its share is 0, and their product no number
    exponential = (functional.logsigmoid(mixed) - logits).exp()
    return exponential - (-mixed).sigmoid() * functional.logsigmoid(logits)


LOSS = PairLoss(_run)
