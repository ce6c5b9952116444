"""What every method's trainer gets: progress, metrics, checkpoints that know their run, and the packing check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.data.stream import Stream
from siredon.hardware import Hardware
from siredon.log import warn
from siredon.model.freezing import find_partial
from siredon.model.noise import EmbeddingNoise
from siredon.model.precision import Precision
from siredon.train.arguments import Schedule, build_arguments, build_schedule, count_steps
from siredon.train.callbacks.bad_step import guard_steps_
from siredon.train.callbacks.best import BestKeeper, EarlyStopping
from siredon.train.callbacks.first_checkpoint import FirstCheckpoint
from siredon.train.callbacks.garbage import GarbageCollector
from siredon.train.callbacks.generation import GenerationKeeper
from siredon.train.callbacks.lisa import build_lisa
from siredon.train.callbacks.loss_watchdog import LossWatchdog
from siredon.train.callbacks.metrics import MetricsWriter
from siredon.train.callbacks.predictions import PredictionWriter
from siredon.train.callbacks.profiler import Profiler
from siredon.train.callbacks.progress import Progress
from siredon.train.callbacks.relora import Relora
from siredon.train.callbacks.requested_checkpoint import RequestedCheckpoint
from siredon.train.callbacks.rounding import RoundingStart
from siredon.train.callbacks.rows import RowKeeper
from siredon.train.callbacks.samples import SampleWriter
from siredon.train.callbacks.stall import StallWatch
from siredon.train.callbacks.stream import StreamKeeper
from siredon.train.checkpoint import IdentityWriter, read_stream_state, restore_token_count_
from siredon.train.chunked_loss import choose_loss_
from siredon.train.interrupt import Interruption
from siredon.train.isolation import check_isolation
from siredon.train.optimize import OptimizerPlan
from siredon.train.out_of_memory import guard_memory_
from siredon.train.resume_rules import Identity
from siredon.train.rollback import Rewind
from siredon.train.saving import SavingPlan
from siredon.train.scores import AnswerScorer, Score
from siredon.train.space import check_space, estimate_sizes
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
        interruption: What may ask the run to end before its time.
        rewind: Where this attempt begins, and what it passes over; the first one passes over nothing.
        scores: By which the model's answers are judged at validations; empty for the loss alone.
        on_published: Told of every checkpoint that is in its place; see `SavingPlan`.
    """

    model: Any
    base: Any
    tokenizer: Any
    prepared: Prepared
    identity: Identity
    resume: Path | None
    interruption: Interruption
    rewind: Rewind = field(default_factory=Rewind)
    scores: tuple[Score, ...] = ()
    on_published: Callable[[Path], None] | None = None


def gather_options(
    parts: Parts, config: Config, schedule: Schedule, precision: Precision, hardware: Hardware
) -> dict[str, Any]:
    """What every trainer is given, whatever its method: model, data, arguments, schedule and number format."""
    return {
        "autocast": torch.bfloat16 if precision.autocast == "bf16" else None,
        "schedule": build_schedule(config),
        "model": parts.model,
        "args": build_arguments(config, schedule, precision, hardware, resumes=parts.resume is not None),
        "train_dataset": parts.prepared.train,
        "eval_dataset": parts.prepared.validation,
        "data_collator": parts.prepared.collator,
        "processing_class": parts.tokenizer,
    }


def equip_trainer_(trainer: SiredonTrainer, parts: Parts, config: Config, hardware: Hardware) -> None:
    """Says how to optimize, adds the callbacks, counts on from a checkpoint, and tries packing out if need be.

    Raises:
        ModelError: The model lets packed documents see each other.
        DataError: The start of an adapter by data finds too little of it.
    """
    trainer.optimizing = OptimizerPlan.of(config)
    trainer.saving = plan_saving(trainer, config, hardware, parts)
    # The printer of transformers makes way for ours.
    trainer.remove_callback(PrinterCallback)
    start_adapter_(trainer, config.adapter)
    # First of all: it sets right the epoch, which the others show.
    stream = parts.prepared.train
    if isinstance(stream, Stream):
        trainer.add_callback(StreamKeeper(stream))
        if parts.resume:
            stream.restore_(read_stream_state(parts.resume))
    _add_selection_(trainer, parts, config)
    guard_steps_(trainer, config, parts.prepared.sources, parts.resume, parts.rewind)
    output = config.checkpoint.output_folder
    trainer.add_callback(Progress(hardware, config.logging, trainer.count_tokens))
    trainer.add_callback(MetricsWriter(output / "metrics.jsonl"))
    trainer.add_callback(IdentityWriter(parts.identity, trainer, parts.resume))
    if config.adapter.adapter is not None and not config.preference.judges:
        trainer.add_callback(GenerationKeeper(parts.base))
    for callback in chain(
        choose_savers(trainer, config),
        choose_writers(trainer, parts.tokenizer, config),
        choose_caretakers(config, hardware),
    ):
        trainer.add_callback(callback)
    if parts.scores and config.eval_strategy != "no":
        longest = config.evaluation.eval_max_new_tokens
        trainer.score_answers = AnswerScorer(trainer, parts.tokenizer, parts.scores, longest).measure
    if not config.preference.judges:  # Their losses are not over words
        choose_loss_(trainer, parts.base, config, hardware)
    guard_memory_(trainer, parts.base, config, hardware)
    # Behind all others, which decide what is due at a step
    trainer.listen_to_(parts.interruption, parts.resume)
    if config.stopping.stall_timeout != 0:
        trainer.stall = StallWatch(output, config.stopping.stall_timeout)
        trainer.add_callback(trainer.stall)
    if parts.resume:
        restore_token_count_(trainer, parts.resume)
    if config.shares_sequences:
        check_isolation(trainer, config.attention.attn_implementation)


def plan_saving(trainer: SiredonTrainer, config: Config, hardware: Hardware, parts: Parts) -> SavingPlan:
    """How checkpoints are written, if the disk has room for them.

    Raises:
        CheckpointError: It has not.
    """
    section = config.checkpoint
    sizes = estimate_sizes(
        trainer.model,
        config.optimizer.optimizer,
        is_adapter=config.adapter.adapter is not None,
        saves_state=not section.save_only_model,
    )
    if config.online.reference_sync is not None and not section.save_only_model:
        # The reference has as many numbers as are trained, and is written too
        trained = (weight for weight in trainer.model.parameters() if weight.requires_grad)
        more = sum(weight.numel() * weight.element_size() for weight in trained)
        sizes = replace(sizes, optimizer=sizes.optimizer + more)
    check_space(sizes, section, trainer.args, count_steps(config, parts.prepared.num_packs).num_steps)
    asked = section.save_in_background
    in_background = hardware.is_gpu if asked is None else asked
    return SavingPlan(section.save_total_limit, in_background, parts.on_published)


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
        ends_with_last = not config.ends_with_best
        relora = Relora(base, config.relora, period=period, seed=seed, ends_with_last=ends_with_last)
        if parts.resume:
            relora.restore_(parts.resume)
        trainer.add_callback(relora)
    if config.embedding.neftune_noise_alpha is not None:
        trainer.noise = EmbeddingNoise(config.embedding.neftune_noise_alpha)
        trainer.noise.attach_(base.get_input_embeddings())
    rounding = config.quantization.qat
    if rounding is not None and rounding.fake_quant_after_n_steps:
        trainer.add_callback(RoundingStart(base, rounding.fake_quant_after_n_steps))


def choose_savers(trainer: SiredonTrainer, config: Config) -> Iterator[TrainerCallback]:
    """What asks for checkpoints besides the strategy, and what ends a run before its time."""
    section, stopping = config.checkpoint, config.stopping
    if section.save_first_step:
        yield FirstCheckpoint()
    requests = section.dynamic_checkpoint
    if requests and requests.enabled:
        yield RequestedCheckpoint(section.output_folder / requests.file_name, requests.check_interval)
    if config.ends_with_best:
        yield BestKeeper(trainer, section.best_metric, rises=section.rises)
    if stopping.early_stopping_patience is not None:
        yield EarlyStopping(
            section.best_metric, rises=section.rises, patience=stopping.early_stopping_patience
        )
    if stopping.loss_watchdog_threshold is not None:
        yield LossWatchdog(trainer, stopping.loss_watchdog_threshold, stopping.patience)


def choose_writers(trainer: SiredonTrainer, tokenizer: Any, config: Config) -> Iterator[TrainerCallback]:
    """What writes down the model's own words at validations."""
    output, evaluation = config.checkpoint.output_folder, config.evaluation
    if config.eval_strategy == "no":
        return
    if config.generation.generate_samples:
        yield SampleWriter(trainer, tokenizer, config.generation, output / "samples.jsonl")
    if evaluation.eval_table_size:
        yield PredictionWriter(
            trainer,
            tokenizer,
            evaluation.eval_table_size,
            evaluation.eval_max_new_tokens,
            output / "predictions.jsonl",
        )


def choose_caretakers(config: Config, hardware: Hardware) -> Iterator[TrainerCallback]:
    """What looks after memory and time."""
    memory, profiler = config.memory, config.profiler
    if memory.gc_collect_steps:
        yield GarbageCollector(memory.gc_collect_steps)
    if memory.torch_empty_cache_steps and not hardware.is_gpu:
        warn(f"`torch_empty_cache_steps` has no effect on {hardware.describe()}: it is about memory of a GPU")
    if profiler.profiler_steps is not None:
        folder = config.checkpoint.output_folder / "profile"
        yield Profiler(folder, profiler.profiler_steps_start, profiler.profiler_steps, hardware)
