"""What is known of the learned tokens of a batch: log-probabilities, and what is asked for beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from siredon.ops.divergence import Projection
from siredon.ops.token_statistics import Measure
from siredon.train.losses import target_collisions, target_divergences, target_entropies, target_log_probs


@dataclass(frozen=True)
class Prediction:
    """All that a model expects in the place of each token of a batch, to be compared with; no gradient.

    Args:
        projection: Hidden states of [B * T] tokens and the head, where logits do not exist together.
        logits: Shape [B, K, V], where they do.
    """

    projection: Projection | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Asked:
    """What is wanted of tokens beside their log-probabilities.

    Args:
        collisions: The log-probability of two draws in the place of a token being the same one.
        entropies: The entropy of what the model expects in its place.
        prediction: All of it, for another pass to be compared with.
        against: The prediction of another model over the same batch, from which the divergence is wanted.
    """

    collisions: bool = False
    entropies: bool = False
    prediction: bool = False
    against: Prediction | None = None

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
        divergences: That of this softmax from the other model's, in nats, [B, T], without gradient.
        prediction: What is expected in the place of all tokens.
    """

    log_probs: Tensor
    collisions: Tensor | None = None
    entropies: Tensor | None = None
    divergences: Tensor | None = None
    prediction: Prediction | None = None


def score_logits(logits: Tensor, targets: Tensor, asked: Asked = NOTHING) -> TokenScores:
    """Scores of targets [B, K] by logits [B, K, V]."""
    divergences = None
    if asked.against is not None:
        assert asked.against.logits is not None
        divergences = target_divergences(logits.detach(), asked.against.logits, targets)
    return TokenScores(
        target_log_probs(logits, targets),
        target_collisions(logits, targets) if asked.collisions else None,
        target_entropies(logits, targets) if asked.entropies else None,
        divergences,
        Prediction(logits=logits.detach()) if asked.prediction else None,
    )
