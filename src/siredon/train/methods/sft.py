"""Supervised fine-tuning: next-token loss on what the data marks as learned.  Also continued pretraining."""

from __future__ import annotations

from dataclasses import replace

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    marking = replace(parts.prepared.collator, marks_sources=config.logging.log_source_loss)
    options = gather_options(parts, config, schedule, precision, hardware)
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(parts.base),
        sources=parts.prepared.sources if config.logging.log_source_loss else (),
        **{**options, "data_collator": marking},
    )
    equip_trainer_(trainer, parts, config, hardware)
    return trainer


METHOD = build_trainer
