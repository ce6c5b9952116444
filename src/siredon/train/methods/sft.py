"""Supervised fine-tuning: next-token loss on what the data marks as learned.  Also continued pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback

from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments
from siredon.train.callbacks.first_checkpoint import FirstCheckpoint
from siredon.train.callbacks.metrics import MetricsWriter
from siredon.train.callbacks.progress import Progress
from siredon.train.checkpoint import Identity, IdentityWriter, restore_token_count_
from siredon.train.isolation import check_isolation
from siredon.train.trainer import SiredonTrainer


@dataclass(frozen=True)
class Parts:
    """What a method puts together.

    Args:
        model: The module to train; `base` is the model of transformers inside it.
        base: The model of transformers.
        tokenizer: Saved beside the weights.
        prepared: The data.
        identity: What a checkpoint of this run must agree with.
        resume: The checkpoint from which the run goes on.
    """

    model: Any
    base: Any
    tokenizer: Any
    prepared: Prepared
    identity: Identity
    resume: Path | None


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(parts.base),
        autocast=torch.bfloat16 if precision.autocast == "bf16" else None,
        model=parts.model,
        args=build_arguments(config, schedule, precision, hardware, resumes=parts.resume is not None),
        train_dataset=parts.prepared.train,
        eval_dataset=parts.prepared.validation,
        data_collator=parts.prepared.collator,
        processing_class=parts.tokenizer,
    )
    # The printer of transformers makes way for ours.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(hardware, lambda: trainer.num_tokens_seen))
    trainer.add_callback(MetricsWriter(Path(config.checkpoint.output_dir) / "metrics.jsonl"))
    trainer.add_callback(IdentityWriter(parts.identity, trainer))
    if parts.resume:
        restore_token_count_(trainer, parts.resume)
    if config.packing.sample_packing or (config.has_validation and config.packing.pack_eval):
        check_isolation(trainer, config.attention.attn_implementation)
    if config.checkpoint.save_first_step:
        trainer.add_callback(FirstCheckpoint())
    return trainer


METHOD = build_trainer
