"""`dpo_loss_type: sigmoid`: DPO, a logistic regression on the margin.

With `h` the margin, `log p(chosen) / p_ref(chosen) - log p(rejected) / p_ref(rejected)`:

    -log sigmoid(beta h)

and with `label_smoothing: e` (cDPO) `-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)`.

Source: Rafailov et al., "Direct Preference Optimization", 2023, https://arxiv.org/abs/2305.18290, equation 7; smoothing
by Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023.  (TRL 1.16 leaves it out here.)
When: first of all.  Smoothing where some judgements are wrong.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import PairLoss, PairOptions, PairScores, logistic


def _run(scores: PairScores, options: PairOptions) -> Tensor:
    return logistic(options.beta * scores.margin, options.label_smoothing)


LOSS = PairLoss(_run)
