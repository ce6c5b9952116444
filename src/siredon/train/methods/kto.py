"""`rl: kto`: good answers are made more likely and bad ones less likely; there are no pairs of them.

Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024,
https://arxiv.org/abs/2402.01306; the loss stands in `train/kto_loss.py`.
"""

from __future__ import annotations

import torch

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments, build_schedule
from siredon.train.equip import Parts, equip_trainer_
from siredon.train.kto_loss import KtoOptions
from siredon.train.kto_trainer import KtoTrainer
from siredon.train.precompute import take_reference_
from siredon.train.reference import choose_reference
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    preference = config.preference
    weights = (preference.kto_desirable_weight, preference.kto_undesirable_weight)
    trainer = KtoTrainer(
        judging=KtoOptions(preference.beta, *(1.0 if weight is None else weight for weight in weights)),
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
    # A checkpoint is loaded later: the model is still as it starts
    if preference.precompute_ref_log_probs:
        take_reference_(trainer, config, precision, hardware)
    else:
        trainer.reference = choose_reference(trainer)
    return trainer


METHOD = build_trainer
