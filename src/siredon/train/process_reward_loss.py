"""`process_reward_model: true`: whether each step of an answer is right.

A cross-entropy of two classes, 0 for wrong and 1 for right, at the last token of each step, and nothing at others.
Over the optimizer step it is the sum over all labelled tokens divided by their number, as in supervised training.

Source: Uesato et al., "Solving math word problems with process- and outcome-based feedback", 2022,
https://arxiv.org/abs/2211.14275; Lightman et al., "Let's Verify Step by Step", 2023, https://arxiv.org/abs/2305.20050.
When: answers are judged step by step, as in mathematics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from siredon.data.types import IGNORE
from siredon.train.losses import cross_entropy_sum


def process_reward_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy, a scalar in fp32, to be divided by the labelled tokens of the whole step.

    Args:
        logits: Shape [B, T, C], any floating type; C classes, of which there are 2.
        labels: The class at each token, [B, T]; `IGNORE` where none is learned.  A label stands at the token whose
            logits are judged: nothing is shifted, unlike labels of the next token.
    """
    return cross_entropy_sum(logits, labels)


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Labelled tokens whose class has the largest logit, and all labelled ones, [2], integers."""
    # No class is `IGNORE`, so a token without a label is never right
    return torch.stack([(logits.argmax(-1) == labels).sum(), (labels != IGNORE).sum()])
