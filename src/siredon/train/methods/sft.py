"""Supervised fine-tuning: next-token loss on what the data marks as learned.  Also continued pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from siredon.train.trainer import SiredonTrainer


@dataclass(frozen=True)
class Parts:
    """What a method puts together.

    Args:
        model: The module to train; `base` is the model of transformers inside it.
        base: The model of transformers.
        tokenizer: Saved beside the weights.
        prepared: The data.
        resumes: The run goes on from a checkpoint.
    """

    model: Any
    base: Any
    tokenizer: Any
    prepared: Prepared
    resumes: bool


def build_trainer(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> SiredonTrainer:
    """A trainer that is ready to run."""
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(parts.base),
        model=parts.model,
        args=build_arguments(config, schedule, precision, hardware, resumes=parts.resumes),
        train_dataset=parts.prepared.train,
        eval_dataset=parts.prepared.validation,
        data_collator=parts.prepared.collator,
        processing_class=parts.tokenizer,
    )
    # The printer of transformers makes way for ours.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(hardware, lambda: trainer.num_tokens_seen))
    trainer.add_callback(MetricsWriter(Path(config.checkpoint.output_dir) / "metrics.jsonl"))
    if config.checkpoint.save_first_step:
        trainer.add_callback(FirstCheckpoint())
    return trainer


METHOD = build_trainer
