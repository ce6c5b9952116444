"""How much each pair counts (WPO): less if the model would hardly write its answers itself.

Source: Zhou et al., "WPO: Enhancing RLHF with Weighted Preference Optimization", 2024,
https://arxiv.org/abs/2406.11827, equation 2, with sampled alignment.
"""

from __future__ import annotations

import torch
from torch import Tensor


def align(log_probs: Tensor, log_collisions: Tensor) -> Tensor:
    """Log-probabilities of tokens against what is to be expected of tokens that the model draws itself.

    The probability of a token drawn from p is on average `sum p^2`, so `log p(token) - log sum p^2` is about 0 for the
    model's own answers, whether it is sure of its words or not.

    Args:
        log_probs: Of learned tokens, 0 elsewhere (`ops.token_statistics`), any shape.
        log_collisions: Logarithms of `sum p^2`, 0 elsewhere (`ops.token_statistics.collision_statistics`).

    Returns:
        The same shape, without gradient; to be summed up over each answer.
    """
    return log_probs.detach() - log_collisions.detach()


def weigh_pairs(chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor) -> Tensor:
    """`exp(mean of chosen + mean of rejected)`, the means over the tokens of each answer.

    Args:
        chosen: Sums of `align` over the chosen answers, [P], fp32.
        rejected: Those over the rejected answers, [P].
        chosen_tokens: Learned tokens of the chosen answers, [P].
        rejected_tokens: Those of the rejected answers, [P].

    Returns:
        What each pair counts, [P], without gradient: about 1 for the model's own answers.
    """
    means = chosen / chosen_tokens.clamp(min=1) + rejected / rejected_tokens.clamp(min=1)
    return torch.exp(means.detach())
