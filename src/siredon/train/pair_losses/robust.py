"""`dpo_loss_type: robust`: DPO without the bias of judgements that are wrong at a known rate.

With `h` the margin (`sigmoid`) and `e` the label smoothing, below 1/2:

    (-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e)

whose mean over judgements, of which a fraction e is flipped, is that of DPO over the right ones.  It is negative for
large margins.

Source: Chowdhury et al., "Provably Robust DPO", 2024, https://arxiv.org/abs/2403.00409.
When: a known fraction of the judgements is wrong.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    logits, smoothing = options.beta * scores.margin, options.label_smoothing
    clean, flipped = -functional.logsigmoid(logits), -functional.logsigmoid(-logits)
    return ((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)


LOSS = PairLoss(_run)
