"""`dpo_loss_type: aot_unpaired`: optimal transport: chosen answers as a whole are to gain more than rejected ones.

With `c` and `r` the logarithms of how much more likely than by the reference model the chosen and the rejected answers
of the optimizer step are, both sorted: `-log sigmoid(beta (c_(i) - r_(i)))` for each rank i, smoothed as `sigmoid` is.

Source: Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", 2024,
https://arxiv.org/abs/2406.05882, for answers that are no pairs; `aot_pair` in older releases of TRL.
When: the two answers of a row do not belong together.

It needs the step: an answer is matched with one of another pair, which may be on another rank.  Each is held against
the value of its match, without gradient, so every match is looked at from both of its ends: the gradients are whole,
and half of the value is taken away again.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores, logistic, match_ranks


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    step = scores.of_step()
    chosen, rejected = step.chosen - step.reference_chosen, step.rejected - step.reference_rejected
    under = match_ranks(chosen, rejected)[step.places].detach()
    over = match_ranks(rejected, chosen)[step.places].detach()
    ends = logistic(options.beta * (scores.chosen_ratio - under), options.label_smoothing)
    ends = ends + logistic(options.beta * (over - scores.rejected_ratio), options.label_smoothing)
    return ends - 0.5 * ends.detach()


LOSS = PairLoss(_run, needs_step=True)
