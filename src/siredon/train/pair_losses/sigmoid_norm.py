"""`dpo_loss_type: sigmoid_norm`: DPO per token: long answers have no lead.

With `c` and `r` the logarithms of how much more likely than by the reference model the chosen and the rejected answer
are, each over the number of its tokens: `-log sigmoid(beta (c - r))`, smoothed as `sigmoid` is.

Source: Lambert et al., "Tulu 3: Pushing Frontiers in Open Language Model Post-Training", 2024,
https://arxiv.org/abs/2411.15124, length-normalized DPO.  (TRL 1.16 leaves smoothing out here.)
When: answers get longer under sigmoid.  beta is larger by about the length of an answer: Tulu 3 takes 5.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores, logistic


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    chosen, rejected = scores.per_token(scores.chosen_ratio, scores.rejected_ratio)
    return logistic(options.beta * (chosen - rejected), options.label_smoothing)


LOSS = PairLoss(_run)
