"""What every method's trainer gets: progress, metrics, checkpoints that know their run, and the packing check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback

from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.data.stream import Stream
from siredon.hardware import Hardware
from siredon.train.callbacks.first_checkpoint import FirstCheckpoint
from siredon.train.callbacks.metrics import MetricsWriter
from siredon.train.callbacks.progress import Progress
from siredon.train.callbacks.stream import StreamKeeper
from siredon.train.checkpoint import Identity, IdentityWriter, read_stream_state, restore_token_count_
from siredon.train.isolation import check_isolation
from siredon.train.start import start_adapter_
from siredon.train.trainer import SiredonTrainer


@dataclass(frozen=True)
class Parts:
    """What a method puts together.

    Args:
        model: The module to train.
        base: The model of transformers inside it.
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


def equip_trainer_(trainer: SiredonTrainer, parts: Parts, config: Config, hardware: Hardware) -> None:
    """Adds the callbacks, counts on from a checkpoint, and tries packing out if the run relies on it.

    Raises:
        ModelError: The model lets packed documents see each other.
        DataError: The start of an adapter by data finds too little of it.
    """
    # The printer of transformers makes way for ours.
    trainer.remove_callback(PrinterCallback)
    start_adapter_(trainer, config.adapter)
    # First of all: it sets right the epoch, which the others show.
    stream = parts.prepared.train
    if isinstance(stream, Stream):
        trainer.add_callback(StreamKeeper(stream))
        if parts.resume:
            stream.restore_(read_stream_state(parts.resume))
    trainer.add_callback(Progress(hardware, lambda: trainer.num_tokens_seen))
    trainer.add_callback(MetricsWriter(config.checkpoint.output_folder / "metrics.jsonl"))
    trainer.add_callback(IdentityWriter(parts.identity, trainer))
    if config.checkpoint.save_first_step:
        trainer.add_callback(FirstCheckpoint())
    if parts.resume:
        restore_token_count_(trainer, parts.resume)
    if config.shares_sequences:
        check_isolation(trainer, config.attention.attn_implementation)
