"""`rl: ipo`: DPO whose margin is drawn to a fixed width, by the loss `pair_losses/ipo.py`.

Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023,
https://arxiv.org/abs/2310.12036.
"""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule
from siredon.train.build_pairs import build_pair_trainer, make_pair_trainer
from siredon.train.equip import Parts
from siredon.train.objective import build_dpo
from siredon.train.pair_trainer import PairTrainer
from siredon.train.trainer import SiredonTrainer


def make_trainer(base: Any, config: Config, options: dict[str, Any]) -> PairTrainer:
    """The trainer alone, which can validate."""
    return make_pair_trainer(build_dpo(config.preference), base, options)


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    return build_pair_trainer(build_dpo(config.preference), parts, config, schedule, precision, hardware)


METHOD = build_trainer
TRAINER = make_trainer
