"""`reward_model: true`: a score for each answer, so that of two answers to a prompt the better one has more.

The score comes from a linear layer of one output, in place of the head for words, at the last token of the answer.
Source: Stiennon et al., "Learning to summarize from human feedback", 2020, https://arxiv.org/abs/2009.01325.
"""

from __future__ import annotations

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.model.score_head import find_score_head
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.reward_trainer import RewardTrainer
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    trainer = RewardTrainer(
        head=find_score_head(parts.base),
        center_coefficient=config.reward.center_rewards_coefficient or 0.0,
        selects_logits=False,
        **gather_options(parts, config, schedule, precision, hardware),
    )
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
