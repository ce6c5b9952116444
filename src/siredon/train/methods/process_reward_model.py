"""`process_reward_model: true`: at the end of each step of an answer, whether the step is right.

Two classes come from a linear layer in place of the head for words, at the last token of what separates steps.
Source: Lightman et al., "Let's Verify Step by Step", 2023, https://arxiv.org/abs/2305.20050.
"""

from __future__ import annotations

import torch

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.model.score_head import find_score_head
from siredon.train.arguments import Schedule, build_arguments, build_schedule
from siredon.train.equip import Parts, equip_trainer_
from siredon.train.step_trainer import StepTrainer
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run.

    Raises:
        ModelError: The model has no head of scores.
    """
    find_score_head(parts.base)
    trainer = StepTrainer(
        selects_logits=False,
        autocast=torch.bfloat16 if precision.autocast == "bf16" else None,
        schedule=build_schedule(config),
        model=parts.model,
        args=build_arguments(config, schedule, precision, hardware, resumes=parts.resume is not None),
        train_dataset=parts.prepared.train,
        eval_dataset=parts.prepared.validation,
        data_collator=parts.prepared.collator,
        processing_class=parts.tokenizer,
    )
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
