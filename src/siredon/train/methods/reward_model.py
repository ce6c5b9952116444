"""`reward_model: true`: a score for each answer, so that of two answers to a prompt the better one has more.

The score comes from a linear layer of one output, in place of the head for words, at the last token of the answer.
Source: Stiennon et al., "Learning to summarize from human feedback", 2020, https://arxiv.org/abs/2009.01325.
"""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.model.score_head import find_score_head
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.reward_trainer import RewardTrainer
from siredon.train.trainer import SiredonTrainer


def make_trainer(base: Any, config: Config, options: dict[str, Any]) -> RewardTrainer:
    """The trainer alone, which can validate."""
    return RewardTrainer(
        head=find_score_head(base),
        center_coefficient=config.reward.center_rewards_coefficient or 0.0,
        selects_logits=False,
        **options,
    )


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    options = gather_options(parts, config, schedule, precision, hardware)
    trainer = make_trainer(parts.base, config, options)
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
TRAINER = make_trainer
