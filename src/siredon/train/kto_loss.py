"""`rl: kto`: answers that are good or bad, each by itself.

With `a` the logarithm of how much more likely than by the reference model an answer is, and `k` an estimate of the
Kullback-Leibler divergence from the reference model, without gradient:

    desirable answers:    w_d (1 - sigmoid(beta (a - k)))
    undesirable answers:  w_u (1 - sigmoid(beta (k - a)))

Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024,
https://arxiv.org/abs/2402.01306, section 4.
When: there are thumbs up and down rather than pairs.

The divergence is the mean of the same logarithm over mismatched answers, each behind a prompt of another row, and 0 if
that is below.  It is one number for the optimizer step, over all its micro-batches and ranks, so it is needed before
the first backward pass: forward passes of the mismatched rows without gradients, by policy and reference model, then
`sum_drifts` of each batch, added up over all ranks, then `estimate_kl`.  The losses are averaged over all answers of
the step, whichever they are, so a step of desirable answers only is one like others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnswerScores:
    """How likely N answers are, each a sum over its learned tokens.

    Args:
        log_probs: Log-probabilities, [N], fp32, with gradient.
        reference: Those by the reference model, [N].
        is_desirable: Which answers are good, [N], bool.
    """

    log_probs: Tensor
    reference: Tensor
    is_desirable: Tensor


@dataclass(frozen=True)
class KtoOptions:
    """Settings.

    Args:
        beta: How strongly the policy is held to the reference model (`rl_beta`).
        desirable_weight: What good answers count (`kto_desirable_weight`).
        undesirable_weight: What bad answers count (`kto_undesirable_weight`).  The paper takes weights with
            `desirable_weight * desirable answers` at 1 to 4/3 of `undesirable_weight * undesirable answers`.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def sum_drifts(log_probs: Tensor, reference: Tensor) -> Tensor:
    """What mismatched rows of one batch add to the estimate.

    Args:
        log_probs: Log-probabilities of the mismatched answers, [M]; M may be 0, as of a row without a partner.
        reference: Those by the reference model, [M].

    Returns:
        The sum of their differences, and M, [2], fp64, without gradient; to be added up over batches and ranks.
    """
    drifts = (log_probs - reference).detach().double()
    return torch.stack([drifts.sum(), drifts.new_tensor(float(len(drifts)))])


def estimate_kl(sums: Tensor) -> Tensor:
    """The divergence, a scalar, from the `sum_drifts` of a whole step, [2]: their mean, not below 0; 0 if of none."""
    return (sums[0] / sums[1].clamp(min=1)).clamp(min=0)


def kto_loss(scores: AnswerScores, kl: Tensor, options: KtoOptions) -> Tensor:
    """What each answer adds, [N], to a sum that is divided by the number of answers of the step.

    Args:
        scores: Of the answers.
        kl: The divergence, a scalar, the same for all answers of the step.
        options: Settings.
    """
    gains = options.beta * (
        scores.log_probs - scores.reference.detach() - kl.detach().to(scores.log_probs.dtype)
    )
    # 1 - sigmoid(x) is sigmoid(-x), which does not cancel
    desirable = options.desirable_weight * (-gains).sigmoid()
    return torch.where(scores.is_desirable, desirable, options.undesirable_weight * gains.sigmoid())
