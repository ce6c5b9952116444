"""What is known of the learned tokens of a batch: log-probabilities, and what is asked for beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from siredon.ops.token_statistics import Measure
from siredon.train.losses import target_collisions, target_entropies, target_log_probs


@dataclass(frozen=True)
class Asked:
    """What is wanted of tokens beside their log-probabilities.

    Args:
        collisions: The log-probability of two draws in the place of a token being the same one.
        entropies: The entropy of what the model expects in its place.
    """

    collisions: bool = False
    entropies: bool = False

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The same in the words of the op."""
        return (
            *(("entropies",) if self.entropies else ()),
            *(("collisions",) if self.collisions else ()),
        )


#: Log-probabilities alone.
NOTHING = Asked()


@dataclass(frozen=True)
class TokenScores:
    """Of each token that predicts a target, fp32, and 0 where there is none; None for what was not asked.

    Args:
        log_probs: The log-probability of the target, [B, T], with its gradient.
        collisions: That of two draws in its place being the same token, [B, T], without gradient.
        entropies: The entropy, in nats, of the softmax that it is drawn from, [B, T], without gradient.
    """

    log_probs: Tensor
    collisions: Tensor | None = None
    entropies: Tensor | None = None


def score_logits(logits: Tensor, targets: Tensor, asked: Asked = NOTHING) -> TokenScores:
    """Scores of targets [B, K] by logits [B, K, V]."""
    return TokenScores(
        target_log_probs(logits, targets),
        target_collisions(logits, targets) if asked.collisions else None,
        target_entropies(logits, targets) if asked.entropies else None,
    )
