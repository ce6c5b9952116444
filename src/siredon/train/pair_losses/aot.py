"""`dpo_loss_type: aot`: optimal transport: the margins as a whole are to exceed those of the reference model.

With `m = log p(chosen) - log p(rejected)` of each pair of the optimizer step, by the policy and by the reference model,
both sorted: `-log sigmoid(beta (m_(i) - m_ref,(i)))` for each rank i, smoothed as `sigmoid` is.

Source: Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", 2024,
https://arxiv.org/abs/2406.05882, for pairs.
When: all pairs are to be told apart on the whole, rather than each of them.  With few pairs per step it is sigmoid.

It needs the step: which margin of the reference model a pair is held against depends on its rank in the step.  That is
a constant of the pair, so the rest is a sum over pairs.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores, logistic, match_ranks


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    step = scores.of_step()
    goals = match_ranks(step.chosen - step.rejected, step.reference_chosen - step.reference_rejected)
    gains = scores.chosen - scores.rejected - goals[step.places].detach()
    return logistic(options.beta * gains, options.label_smoothing)


LOSS = PairLoss(_run, needs_step=True)
