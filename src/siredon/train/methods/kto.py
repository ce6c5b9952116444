"""`rl: kto`: good answers are made more likely and bad ones less likely; there are no pairs of them.

Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024,
https://arxiv.org/abs/2402.01306; the loss stands in `train/kto_loss.py`.
"""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.kto_loss import KtoOptions
from siredon.train.kto_trainer import KtoTrainer
from siredon.train.precompute import give_reference_
from siredon.train.trainer import SiredonTrainer


def make_trainer(base: Any, config: Config, options: dict[str, Any]) -> KtoTrainer:
    """The trainer alone, which can validate where batches say what the reference model thinks of them."""
    preference = config.preference
    weights = (preference.kto_desirable_weight, preference.kto_undesirable_weight)
    return KtoTrainer(
        judging=KtoOptions(preference.beta, *(1.0 if weight is None else weight for weight in weights)),
        selects_logits=takes_logits_to_keep(base),
        **options,
    )


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    options = gather_options(parts, config, schedule, precision, hardware)
    trainer = make_trainer(parts.base, config, options)
    equip_trainer_(trainer, parts, config, hardware)
    give_reference_(trainer, config, precision, hardware, parts.resume)
    return trainer


METHOD = build_trainer
TRAINER = make_trainer
