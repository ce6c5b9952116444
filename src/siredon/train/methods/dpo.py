"""`rl: dpo`: of two answers to a prompt, the better one is made more likely than the worse one.

Both are compared with what a reference model, the policy at its start, thinks of them.  Source: Rafailov et al.,
"Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
https://arxiv.org/abs/2305.18290.
"""

from __future__ import annotations

import torch

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments, build_schedule
from siredon.train.equip import Parts, equip_trainer_
from siredon.train.pair_loss import PairOptions, load_terms
from siredon.train.pair_trainer import Objective, PairTrainer
from siredon.train.precompute import take_reference_
from siredon.train.reference import choose_reference
from siredon.train.trainer import SiredonTrainer


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    preference = config.preference
    terms = load_terms(preference.pair_losses, preference.pair_weights)
    trainer = PairTrainer(
        objective=Objective(terms, PairOptions(preference.beta, preference.dpo_label_smoothing or 0.0)),
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
    if not trainer.objective.needs_reference:
        return trainer
    # A checkpoint is loaded later: the model is still as it starts
    if preference.precompute_ref_log_probs:
        take_reference_(trainer, config, precision, hardware)
    else:
        trainer.reference = choose_reference(trainer)
    return trainer


METHOD = build_trainer
