"""The trainer of every method that learns from pairs of answers."""

from __future__ import annotations

import torch

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments, build_schedule
from siredon.train.equip import Parts, equip_trainer_
from siredon.train.objective import Objective
from siredon.train.pair_trainer import PairTrainer
from siredon.train.precompute import take_reference_
from siredon.train.reference import choose_reference


def build_pair_trainer(
    objective: Objective,
    parts: Parts,
    config: Config,
    schedule: Schedule,
    precision: Precision,
    hardware: Hardware,
) -> PairTrainer:
    """A trainer that is ready to run, with the reference model that its objective needs."""
    trainer = PairTrainer(
        objective=objective,
        selects_logits=takes_logits_to_keep(parts.base),
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
    if not objective.needs_reference:
        return trainer
    # A checkpoint is loaded later: the model is still as it starts
    if config.preference.precompute_ref_log_probs:
        take_reference_(trainer, config, precision, hardware)
    else:
        trainer.reference = choose_reference(trainer)
    return trainer
