"""Config -> `TrainingArguments` of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from siredon.config.schema import Config
from siredon.config.sections.packing import PackingSection
from siredon.distributed.ranks import num_ranks
from siredon.hardware import Hardware
from siredon.model.precision import Precision
from siredon.train.learning_rate import ScheduleBuilder


class OneDeviceArguments(TrainingArguments):
    """One device a process: several GPUs are several processes, never `torch.nn.DataParallel`."""

    @property
    def n_gpu(self) -> int:
        """At most 1."""
        return min(1, int(super().n_gpu))


@dataclass(frozen=True)
class Schedule:
    """The run in optimizer steps."""

    steps_per_epoch: int
    num_steps: int


def count_steps(config: Config, num_packs: int | None) -> Schedule:
    """How many optimizer steps an epoch and the run have.

    Args:
        config: The whole config: batch sizes and epochs.
        num_packs: Sequences in an epoch, over all ranks; None for a stream, of which the whole run is one epoch.
    """
    batch = config.batch
    if num_packs is None:
        assert batch.max_steps is not None, "SD0209 asks for it"
        return Schedule(batch.max_steps, batch.max_steps)
    batches = math.ceil(num_packs / (batch.micro_batch_size * num_ranks()))
    per_epoch = max(1, math.ceil(batches / batch.gradient_accumulation_steps))
    return Schedule(per_epoch, batch.max_steps or math.ceil(batch.num_epochs * per_epoch))


def build_arguments(
    config: Config, schedule: Schedule, precision: Precision, hardware: Hardware, *, resumes: bool = False
) -> TrainingArguments:
    """Everything that `Trainer` has to know, from the config.

    A fresh run begins with a validation; one that goes on from a checkpoint has had it.
    """
    batch, optimizer = config.batch, config.optimizer
    return OneDeviceArguments(
        output_dir=str(config.checkpoint.output_folder),
        per_device_train_batch_size=batch.micro_batch_size,
        per_device_eval_batch_size=batch.eval_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
        num_train_epochs=batch.num_epochs,
        max_steps=batch.max_steps or -1,
        seed=batch.seed,
        data_seed=batch.seed,
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_norm,
        # The learning rate is that of `train/learning_rate.py`, which `SiredonTrainer.create_scheduler` builds.
        lr_scheduler_type="constant",
        fp16=precision.autocast == "fp16",
        tf32=precision.tf32 if hardware.is_gpu else None,
        use_cpu=hardware.device == "cpu",
        logging_steps=config.logging.num_logging_steps(schedule.num_steps),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if config.logging.use_tensorboard else [],
        torch_empty_cache_steps=config.memory.torch_empty_cache_steps if hardware.is_gpu else None,
        disable_tqdm=True,
        log_level="error",
        dataloader_num_workers=config.loader.dataloader_num_workers,
        dataloader_prefetch_factor=config.loader.dataloader_prefetch_factor,
        dataloader_pin_memory=config.loader.dataloader_pin_memory and hardware.is_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        train_sampling_strategy="random" if config.streaming.streams else _choose_order(config.packing),
        # A stream goes on by itself (see `callbacks/stream.py`), and every rank takes its batches of the same one.
        ignore_data_skip=config.streaming.streams,
        accelerator_config={"dispatch_batches": False} if config.streaming.streams else None,
        average_tokens_across_devices=True,
        # LISA freezes blocks after the ranks were joined, which DDP takes for weights that are not used.
        ddp_find_unused_parameters=config.lisa.lisa_n_layers is not None if num_ranks() > 1 else None,
        **_saving(config, schedule),
        **_evaluating(config, schedule, starts=not resumes),
    )


def build_schedule(config: Config) -> ScheduleBuilder:
    """What builds the schedule of the learning rate."""
    return ScheduleBuilder(config.schedule, config.optimizer.learning_rate, falls=not config.checkpoint.rises)


def _choose_order(section: PackingSection) -> str:
    """In which order rows come, in the words of transformers."""
    if section.curriculum_sampling:
        return "sequential"
    return "group_by_length" if section.group_by_length and not section.sample_packing else "random"


def _saving(config: Config, schedule: Schedule) -> dict[str, Any]:
    section = config.checkpoint
    options: dict[str, Any] = {
        # Which ones go is decided in `train/publish.py`: `Trainer` would count torn ones too
        "save_total_limit": None,
        "save_only_model": section.save_only_model,
    }
    if config.decides_by_metric:
        options |= {"metric_for_best_model": section.best_metric, "greater_is_better": section.rises}
    steps = _steps(section.save_steps, section.saves_per_epoch, schedule)
    if section.strategy == "best":
        return {**options, "save_strategy": "best"}
    if steps is None:
        return {**options, "save_strategy": section.strategy}
    return {**options, "save_strategy": "steps", "save_steps": steps}


def _evaluating(config: Config, schedule: Schedule, *, starts: bool) -> dict[str, Any]:
    section, strategy = config.evaluation, config.eval_strategy
    if strategy == "no":
        return {"eval_strategy": "no"}
    steps = _steps(section.eval_steps, section.evals_per_epoch, schedule)
    return {"eval_strategy": strategy, "eval_on_start": starts} | ({"eval_steps": steps} if steps else {})


def _steps(steps: float | None, per_epoch: int | None, schedule: Schedule) -> int | None:
    """Optimizer steps between two events; a number below 1 is a fraction of the run."""
    if per_epoch:
        return max(1, round(schedule.steps_per_epoch / per_epoch))
    if steps is None:
        return None
    return max(1, round(steps * schedule.num_steps)) if steps < 1 else int(steps)
