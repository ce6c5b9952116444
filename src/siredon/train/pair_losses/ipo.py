"""`dpo_loss_type: ipo`: the margin is drawn to a fixed width.

With `c` and `r` the logarithms of how much more likely than by the reference model the chosen and the rejected answer
are, each over the number of its tokens:

    (c - r - 1 / (2 beta))^2

Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023,
https://arxiv.org/abs/2310.12036, equation 17, where beta is called tau.  The paper does not mention the division by
tokens; it is that of TRL, whose authors say to have it from the authors of the paper.
When: sigmoid overfits, as where each pair was judged once and judges agree.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    chosen, rejected = scores.per_token(scores.chosen_ratio, scores.rejected_ratio)
    return (chosen - rejected - 1 / (2 * options.beta)).square()


LOSS = PairLoss(_run)
