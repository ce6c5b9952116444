"""The trainer of every method that learns from pairs of answers."""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule
from siredon.train.equip import Parts, equip_trainer_, gather_options
from siredon.train.objective import Objective
from siredon.train.pair_trainer import PairTrainer
from siredon.train.precompute import give_reference_


def make_pair_trainer(objective: Objective, base: Any, options: dict[str, Any]) -> PairTrainer:
    """The trainer alone, which can validate where batches say what the reference model thinks of them.

    Args:
        objective: What is learned of pairs.
        base: The model of transformers inside the one that is trained.
        options: What `transformers.Trainer` takes.
    """
    return PairTrainer(objective=objective, selects_logits=takes_logits_to_keep(base), **options)


def build_pair_trainer(
    objective: Objective,
    parts: Parts,
    config: Config,
    schedule: Schedule,
    precision: Precision,
    hardware: Hardware,
) -> PairTrainer:
    """A trainer that is ready to run, with the reference model that its objective needs."""
    options = gather_options(parts, config, schedule, precision, hardware)
    trainer = make_pair_trainer(objective.measuring(config.preference), parts.base, options)
    equip_trainer_(trainer, parts, config, hardware)
    if objective.needs_reference:
        give_reference_(trainer, config, precision, hardware, parts.resume)
    return trainer
