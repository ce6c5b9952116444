"""`dpo_loss_type: sft`: the chosen answers are imitated.

    -(sum over tokens of the chosen answers of log p) / (their number)

over the tokens of the whole optimizer step, as supervised training does it: hence the divisor.

When: beside another loss, with a small weight, so that chosen answers stay likely (as in MPO, Wang et al., 2024,
https://arxiv.org/abs/2411.10442).
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    del options
    return -scores.chosen


LOSS = PairLoss(_run, needs_reference=False, divisor="chosen_tokens")
