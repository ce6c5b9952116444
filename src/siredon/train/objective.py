"""What is learned of pairs of answers: a loss, what it needs to know of them, and the rewards that are logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from siredon.config.sections.preference import (
    DIVERGENCE_MEASURES,
    ENTROPY_MEASURES,
    PAIR_MEASURES,
    REFERENCE_MEASURES,
    PreferenceSection,
)
from siredon.train.orpo_loss import OrpoOptions, orpo_loss
from siredon.train.pair_loss import LossParts, PairOptions, PairScores, Term, combine, load_terms
from siredon.train.simpo_loss import SimpoOptions, simpo_loss
from siredon.train.token_scores import Asked


@dataclass(frozen=True)
class Objective:
    """What is learned of pairs.

    Args:
        loss: What pairs add to the loss of their step.
        scale: Of rewards: what log-probabilities are multiplied by.
        needs_reference: Whether it compares with a reference model.  If it does not, a reward is the scaled mean
            log-probability of the tokens of an answer, which is what losses without a reference compare.
        needs_step: Whether it needs the scores of the whole step.
        weighs: Whether pairs count by how likely the model is to write them itself (`pair_weights`).
        entropies: Whether entropies are measured.
        divergences: Whether divergences from the reference model are.
    """

    loss: Callable[[PairScores], LossParts]
    scale: float
    needs_reference: bool = True
    needs_step: bool = False
    weighs: bool = False
    entropies: bool = False
    divergences: bool = False

    def run(self, scores: PairScores) -> LossParts:
        """What pairs add to the loss of their step."""
        return self.loss(scores)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what `measure` gives."""
        return (
            *PAIR_MEASURES,
            *(REFERENCE_MEASURES if self.needs_reference else ()),
            *(ENTROPY_MEASURES if self.entropies else ()),
            *(DIVERGENCE_MEASURES if self.divergences else ()),
        )

    def measuring(self, preference: PreferenceSection) -> Objective:
        """The same, with what the file wants to be measured beside it."""
        return replace(self, entropies=bool(preference.log_entropy), divergences=bool(preference.log_kl))

    @property
    def asked(self) -> Asked:
        """What is asked of the policy's tokens."""
        return Asked(collisions=self.weighs, entropies=self.entropies)

    def measure(self, scores: PairScores) -> Tensor:
        """What is measured of each pair, [P, K], by the names of `measures`, fp64, without gradient."""
        chosen, rejected = (self.scale * values for values in self._compare(scores))
        longer = torch.sign(scores.chosen_tokens - scores.rejected_tokens)
        found = [
            chosen,
            rejected,
            chosen > rejected,
            chosen - rejected,
            scores.chosen.detach(),
            scores.rejected.detach(),
            scores.chosen_tokens,
            scores.rejected_tokens,
            (longer + 1) / 2,
            (longer * torch.sign(chosen - rejected) + 1) / 2,
        ]
        if self.needs_reference:
            ratios = (scores.chosen_ratio + scores.rejected_ratio).detach()
            found.append(ratios / (scores.chosen_tokens + scores.rejected_tokens).clamp(min=1))
        if self.entropies:
            assert scores.entropies is not None
            found += scores.per_token(*scores.entropies)
        if self.divergences:
            assert scores.divergences is not None
            found += scores.per_token(*scores.divergences)
        return torch.stack([values.double() for values in found], dim=1)

    def _compare(self, scores: PairScores) -> tuple[Tensor, Tensor]:
        """What is made more and less likely, [P] each."""
        if self.needs_reference:
            return scores.chosen_ratio.detach(), scores.rejected_ratio.detach()
        return scores.per_token(scores.chosen.detach(), scores.rejected.detach())


def add_up(terms: Sequence[Term], options: PairOptions, *, weighs: bool = False) -> Objective:
    """The weighted sum of losses of the shelf `pair_losses/`.

    Args:
        terms: The losses, with their weights.
        options: Their settings.
        weighs: Whether pairs count by how likely the model is to write them itself.
    """
    return Objective(
        partial(combine, terms, options=options),
        options.beta,
        any(term.loss.needs_reference for term in terms),
        any(term.loss.needs_step for term in terms),
        weighs,
    )


def build_dpo(preference: PreferenceSection) -> Objective:
    """`rl: dpo` and `rl: ipo`: losses of the shelf."""
    terms = load_terms(preference.pair_losses, preference.pair_weights)
    options = PairOptions(preference.beta, preference.dpo_label_smoothing or 0.0)
    return add_up(terms, options, weighs=bool(preference.dpo_use_weighting))


def build_simpo(preference: PreferenceSection) -> Objective:
    """`rl: simpo`."""
    options = SimpoOptions(beta=preference.beta)
    if preference.simpo_gamma is not None:
        options = replace(options, gamma=preference.simpo_gamma)
    if preference.cpo_alpha is not None:
        options = replace(options, cpo_alpha=preference.cpo_alpha)
    return Objective(partial(simpo_loss, options=options), options.beta, needs_reference=False)


def build_orpo(preference: PreferenceSection) -> Objective:
    """`rl: orpo`."""
    alpha = preference.beta if preference.orpo_alpha is None else preference.orpo_alpha
    return Objective(partial(orpo_loss, options=OrpoOptions(alpha)), alpha, needs_reference=False)
