"""`reward_model: true`: one score per answer, learned from pairs.

With `c` and `r` the scores of the chosen and the rejected answer, and `m` the margin of the pair, if rows have one:

    -log sigmoid(c - r - m) + coefficient (c + r)^2

Source: Bradley, Terry, "Rank Analysis of Incomplete Block Designs", 1952; margins of Touvron et al., "Llama 2", 2023,
https://arxiv.org/abs/2307.09288, equation 2; the second term, which keeps scores around 0, of Eisenstein et al.,
"Helping or Herding?", 2023, https://arxiv.org/abs/2312.09244, who take 0.01.
When: answers are to be ranked, or a policy trained on their scores.
"""

from __future__ import annotations

from torch import Tensor

from siredon.train.pair_loss import logistic


def reward_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None, center_coefficient: float = 0.0
) -> Tensor:
    """What each pair adds, [P], to a sum that is divided by the number of pairs of the step.

    Args:
        chosen: Scores of the chosen answers, [P], any floating type.
        rejected: Those of the rejected answers, [P].
        margin: By how much the first should exceed the second, [P]; None for none.
        center_coefficient: Weight that keeps the scores around 0 (`center_rewards_coefficient`).

    Returns:
        [P], in fp32 at least.
    """
    chosen, rejected = (score if score.dtype.itemsize > 2 else score.float() for score in (chosen, rejected))
    leads = chosen - rejected
    losses = logistic(leads if margin is None else leads - margin)
    return losses + center_coefficient * (chosen + rejected).square() if center_coefficient else losses
