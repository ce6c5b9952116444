"""`rl: simpo`: pairs without a reference model, by what the model makes of each token on average.

With `c` and `r` the mean log-probabilities of the tokens of the chosen and the rejected answer:

    -log sigmoid(beta (c - r) - gamma)

Source: Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024,
https://arxiv.org/abs/2405.14734, equation 6.  With `cpo_alpha`, the mean over the tokens of the chosen answers of the
step is added, as in Xu et al., "Contrastive Preference Optimization", 2024, https://arxiv.org/abs/2401.08417.
When: no memory or time for a reference model, and answers should not get longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from siredon.train.pair_loss import LossParts, PairScores, logistic


@dataclass(frozen=True)
class SimpoOptions:
    """Settings.

    Args:
        beta: How steep the loss is over a margin per token (`rl_beta`); the paper takes 2 to 10.  It holds to nothing.
        gamma: The lead that chosen answers should have, in units of beta times a log-probability (`simpo_gamma`).
        cpo_alpha: Weight of imitating the chosen answers; 0 is SimPO as it was published, 1 what TRL does unasked.
        label_smoothing: The fraction of pairs whose judgement is taken to be the wrong way round.
    """

    beta: float = 0.1
    gamma: float = 0.5
    cpo_alpha: float = 1.0
    label_smoothing: float = 0.0


def simpo_loss(scores: PairScores, options: SimpoOptions) -> LossParts:
    """What pairs add to the loss of their step: a loss per pair, and one over the tokens of the chosen answers."""
    chosen, rejected = scores.per_token(scores.chosen, scores.rejected)
    losses = logistic(options.beta * (chosen - rejected) - options.gamma, options.label_smoothing)
    return LossParts(losses, -options.cpo_alpha * scores.chosen if options.cpo_alpha else None)
