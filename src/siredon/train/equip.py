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
from siredon.model.freezing import find_partial
from siredon.model.noise import EmbeddingNoise
from siredon.train.callbacks.first_checkpoint import FirstCheckpoint
from siredon.train.callbacks.lisa import build_lisa
from siredon.train.callbacks.metrics import MetricsWriter
from siredon.train.callbacks.progress import Progress
from siredon.train.callbacks.relora import Relora
from siredon.train.callbacks.rounding import RoundingStart
from siredon.train.callbacks.rows import RowKeeper
from siredon.train.callbacks.stream import StreamKeeper
from siredon.train.checkpoint import Identity, IdentityWriter, read_stream_state, restore_token_count_
from siredon.train.isolation import check_isolation
from siredon.train.optimize import OptimizerPlan
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
    """Says how to optimize, adds the callbacks, counts on from a checkpoint, and tries packing out if need be.

    Raises:
        ModelError: The model lets packed documents see each other.
    """
    trainer.optimizing = OptimizerPlan.of(config)
    # The printer of transformers makes way for ours.
    trainer.remove_callback(PrinterCallback)
    # First of all: it sets right the epoch, which the others show.
    stream = parts.prepared.train
    if isinstance(stream, Stream):
        trainer.add_callback(StreamKeeper(stream))
        if parts.resume:
            stream.restore_(read_stream_state(parts.resume))
    _add_selection_(trainer, parts, config)
    trainer.add_callback(Progress(hardware, lambda: trainer.num_tokens_seen))
    trainer.add_callback(MetricsWriter(config.checkpoint.output_folder / "metrics.jsonl"))
    trainer.add_callback(IdentityWriter(parts.identity, trainer))
    if config.checkpoint.save_first_step:
        trainer.add_callback(FirstCheckpoint())
    rounding = config.quantization.qat
    if rounding is not None and rounding.fake_quant_after_n_steps:
        trainer.add_callback(RoundingStart(parts.base, rounding.fake_quant_after_n_steps))
    if parts.resume:
        restore_token_count_(trainer, parts.resume)
    if config.shares_sequences:
        check_isolation(trainer, config.attention.attn_implementation)


def _add_selection_(trainer: SiredonTrainer, parts: Parts, config: Config) -> None:
    """What decides step by step which weights are trained, and on which embeddings."""
    base, seed = parts.base, config.batch.seed
    partial = find_partial(base, config.freezing)
    if partial:
        trainer.add_callback(RowKeeper(partial))
    if config.lisa.lisa_n_layers is not None:
        trainer.add_callback(build_lisa(base, config.lisa, seed))
    if config.relora.relora:
        period = config.schedule.jagged_restart_steps
        assert period is not None, "SD0309 asks for it"
        relora = Relora(base, config.relora, period=period, seed=seed)
        if parts.resume:
            relora.restore_(parts.resume)
        trainer.add_callback(relora)
    if config.embedding.neftune_noise_alpha is not None:
        trainer.noise = EmbeddingNoise(config.embedding.neftune_noise_alpha)
        trainer.noise.attach_(base.get_input_embeddings())
