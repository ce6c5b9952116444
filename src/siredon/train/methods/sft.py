"""Supervised fine-tuning: next-token loss on what the data marks as learned.  Also continued pretraining."""

from __future__ import annotations

from dataclasses import replace

import torch

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments, build_schedule
from siredon.train.equip import Parts, equip_trainer_
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(parts.base),
        autocast=torch.bfloat16 if precision.autocast == "bf16" else None,
        schedule=build_schedule(config),
        sources=parts.prepared.sources if config.logging.log_source_loss else (),
        model=parts.model,
        args=build_arguments(config, schedule, precision, hardware, resumes=parts.resume is not None),
        train_dataset=parts.prepared.train,
        eval_dataset=parts.prepared.validation,
        data_collator=replace(parts.prepared.collator, marks_sources=config.logging.log_source_loss),
        processing_class=parts.tokenizer,
    )
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
