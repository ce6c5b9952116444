"""`dpo_loss_type: hinge`: a pair counts until its margin is wide enough.

With `h` the margin (`sigmoid`): `max(0, 1 - beta h)`, so a pair with a margin of `1 / beta` is done.

Source: Zhao et al., "SLiC-HF", 2023, https://arxiv.org/abs/2305.10425, over the ratios to a reference model as in Liu
et al., "Statistical Rejection Sampling Improves Preference Optimization", 2023, https://arxiv.org/abs/2309.06657.
When: pairs that are told apart already should not be pushed further.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    return (1 - options.beta * scores.margin).relu()


LOSS = PairLoss(_run)
