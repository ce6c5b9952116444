"""`process_reward_model: true`: at the end of each step of an answer, whether the step is right.

Two classes come from a linear layer in place of the head for words, at the last token of what separates steps.
Source: Lightman et al., "Let's Verify Step by Step", 2023, https://arxiv.org/abs/2305.20050.
"""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.model.score_head import find_score_head
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.step_trainer import StepTrainer
from siredon.train.trainer import SiredonTrainer


def make_trainer(base: Any, config: Config, options: dict[str, Any]) -> StepTrainer:
    """The trainer alone, which can validate.

    Raises:
        ModelError: The model has no head of scores.
    """
    find_score_head(base)
    return StepTrainer(selects_logits=False, **options)


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run.

    Raises:
        ModelError: The model has no head of scores.
    """
    options = gather_options(parts, config, schedule, precision, hardware)
    trainer = make_trainer(parts.base, config, options)
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
TRAINER = make_trainer
