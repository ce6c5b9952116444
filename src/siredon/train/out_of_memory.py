"""What becomes of a run whose memory has run out: the last step saved, the numbers, and changes that were tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.data.stream import Stream
from siredon.data.types import Batch
from siredon.distributed.ranks import num_ranks, rank
from siredon.errors import TrainingError
from siredon.hardware import Hardware, forget_peak, is_out_of_memory, read_memory, release_memory
from siredon.log import note, warn
from siredon.model.recompute import count_keeping, find_layers, recompute_first_
from siredon.train.activation_plan import Planner
from siredon.train.callbacks.longest_batch import LongestBatch
from siredon.train.last_step import LastStepWatch
from siredon.train.memory_guard import Failure, MemoryGuard, read_failure, take_rows, take_tokens
from siredon.train.probe import Peak, Prober, describe_batch, fill_batch, find_longest, is_probed, show_gib
from siredon.train.trainer import SiredonTrainer

#: How many changes are named.
_MOST_CHANGES = 3
#: A part of the device that stays free of what is estimated or measured: fragmentation, longer kernels' workspaces.
_USABLE = 0.97
#: Bytes of a weight in 4 bits, with the scale of its block of 64.
_BYTES_IN_4BIT = 0.5 + 4 / 64
#: A rank of LoRA that is taken for the estimate, and bytes of its weights, gradients and state in fp32.
_LORA_RANK, _LORA_BYTES = 16, 16


@dataclass(frozen=True)
class Change:
    """Other lines of YAML.

    Args:
        lines: The lines.
        bytes: The peak with them.
        how: Measured or estimated, and what they do to the training.
    """

    lines: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Doctor:
    """Explains a failure, and looks for changes with which the batch fits.  The run is over: it may change the model.

    Args:
        trainer: The run's.
        prober: Tries batches on its model.
        config: The run's.
        base: The model of transformers inside.
        hardware: The device.
    """

    trainer: SiredonTrainer
    prober: Prober
    config: Config
    base: Any
    hardware: Hardware

    def explain(self, failure: Failure, batch: Batch | None, what: str) -> TrainingError:
        """The error that ends the run.

        Args:
            failure: What has happened.
            batch: The batch that did not fit; None for something else than a batch.
            what: What did not fit, for people.
        """
        self.trainer.model.zero_grad()
        release_memory(self.hardware)
        memory = read_memory(self.hardware)
        # What it held, it can have
        limit = max(memory.limit, failure.peak if failure.reason else 0)
        where = f"rank {rank()}: " if num_ranks() > 1 else ""
        asked = f" when {show_gib(failure.asked)} more were asked for" if failure.asked else ""
        held_in_all = "it held" if failure.reason else "it would hold"
        others = self.prober.count_held()
        held = (
            f"weights {show_gib(self.prober.count_weights())}, "
            + (f"reference {show_gib(others)}, " if others else "")
            + "gradients "
            f"{show_gib(self.prober.count_gradients())}, optimizer {show_gib(self.prober.count_state())}"
        )
        message = (
            f"{where}out of memory: {what} does not fit on {self.hardware.describe()}; in GiB: this process can have "
            f"{show_gib(limit)} of {show_gib(memory.total)}, others hold {show_gib(memory.others)}; it takes "
            f"{held}; {held_in_all} {show_gib(failure.peak)} in all{asked}"
        )
        if batch is None:
            return TrainingError(message, "Lower `micro_batch_size` or `eval_batch_size`.")
        changes = self.find_changes(batch, int(limit * _USABLE))
        if not changes:
            return TrainingError(
                message,
                "None of the changes that were tried fits: use a smaller model, or a device with more memory.",
            )
        shown = "\n".join(
            f"    {change.lines}  # {show_gib(change.bytes)} GiB, {change.how}" for change in changes
        )
        return TrainingError(message, f"Any of these fits:\n{shown}")

    def find_changes(self, batch: Batch, limit: int) -> list[Change]:
        """The first changes that fit: those that leave the training as it is, then the others."""
        tried: list[tuple[int, Peak]] = []
        found = [
            change
            for change in (
                self._try_rows(batch, limit, tried),
                self._try_recomputing(batch, limit),
                self._try_tokens(batch, limit, tried),
            )
            if change is not None
        ]
        shorter = [change for change in found if change.lines.startswith("sequence_len")]
        same = [change for change in found if change not in shorter]
        estimated = [change for change in self._estimate(batch, tried) if change.bytes <= limit]
        return [*same, *estimated, *shorter][:_MOST_CHANGES]

    def _fits(self, batch: Batch, limit: int, *, accumulates: bool = False) -> Peak | None:
        """What a batch takes, if it fits."""
        try:
            peak = self.prober.measure(batch, accumulates=accumulates)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return peak if peak.total <= limit else None

    def _try_rows(self, batch: Batch, limit: int, tried: list[tuple[int, Peak]]) -> Change | None:
        section = self.config.batch
        size, steps = section.micro_batch_size, section.gradient_accumulation_steps
        for count in dict.fromkeys((size // 2, size // 4, 1)):
            if not 0 < count < size or size * steps % count:
                continue
            part = take_rows(batch, 0, count)
            peak = self._fits(part, limit, accumulates=True)
            if peak is not None:
                tried.append((part["input_ids"].numel(), peak))
                lines = f"micro_batch_size: {count}, gradient_accumulation_steps: {size * steps // count}"
                return Change(lines, peak.total, "measured; the same training")
        return None

    def _try_tokens(self, batch: Batch, limit: int, tried: list[tuple[int, Peak]]) -> Change | None:
        length = self.config.data.sequence_len
        for share in (0.75, 0.5, 0.25, 0.125):
            count = int(length * share)
            part = take_tokens(batch, count)
            if part["input_ids"].numel() >= batch["input_ids"].numel():
                continue
            peak = self._fits(part, limit)
            if peak is not None:
                tried.append((part["input_ids"].numel(), peak))
                return Change(
                    f"sequence_len: {count}", peak.total, "measured; longer rows are cut, or dropped"
                )
        return None

    def _try_recomputing(self, batch: Batch, limit: int) -> Change | None:
        asked = self.config.memory.gradient_checkpointing
        if (asked and asked != "auto") or not self.base.supports_gradient_checkpointing:
            return None
        if asked == "auto":
            layers = find_layers(self.base)
            planned = sum(layer.gradient_checkpointing for layer in layers)
            if planned == len(layers):
                return None
            keeping = count_keeping(self.base)
            recompute_first_(self.base, len(layers))
            peak = self._fits(batch, limit)
            recompute_first_(self.base, planned, keeping)
        else:
            options = {"use_reentrant": False}
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
            peak = self._fits(batch, limit)
            self.base.gradient_checkpointing_disable()
        if peak is None:
            return None
        return Change(
            "gradient_checkpointing: true", peak.total, "measured; the same training, about 1/3 slower"
        )

    def _estimate(self, batch: Batch, tried: list[tuple[int, Peak]]) -> Iterator[Change]:
        """Changes of weights and optimizer, from what the batch would take in all."""
        if not tried:
            return
        whole = extrapolate(batch["input_ids"].numel(), [(count, peak.work) for count, peak in tried])
        total = whole + tried[0][1].held + self.prober.count_state()
        state, trained = self.prober.count_state(), self.prober.trained
        num_trained = sum(weight.numel() for weight in trained)
        adapter, optimizer = self.config.adapter, self.config.optimizer.optimizer
        if state > 2.5 * num_trained and optimizer.startswith("adamw_torch"):
            saved = state - 2 * num_trained
            yield Change("optimizer: adamw_8bit", total - saved, "estimated; the state is rounded to 8 bits")
        linear = [
            module
            for module in self.base.modules()
            if type(module) is torch.nn.Linear and module is not self.base.get_output_embeddings()
        ]
        if adapter.adapter is None:
            lora = sum(_LORA_RANK * sum(module.weight.shape) for module in linear) * _LORA_BYTES
            saved = state + self.prober.count_gradients() - lora
            lines = (
                f"adapter: lora, lora_r: {_LORA_RANK}, lora_alpha: {2 * _LORA_RANK}, lora_target_linear: true"
            )
            yield Change(lines, total - saved, "estimated; an adapter is trained instead")
        elif adapter.adapter == "lora" and not self.config.quantization.ways:
            frozen = [module.weight for module in linear if not module.weight.requires_grad]
            saved = int(sum(weight.numel() * (weight.element_size() - _BYTES_IN_4BIT) for weight in frozen))
            yield Change(
                "adapter: qlora, load_in_4bit: true", total - saved, "estimated; the base is rounded"
            )


def extrapolate(count: int, points: list[tuple[int, int]]) -> int:
    """What a batch of `count` tokens takes: on the line through two smaller ones, or through one and nothing."""
    first, *others = sorted(points)
    last = others[-1] if others and others[-1][0] > first[0] else None
    if last is None:
        return first[1] * count // first[0]
    slope = (last[1] - first[1]) / (last[0] - first[0])
    return max(last[1], int(last[1] + slope * (count - last[0])))


def probe_longest(doctor: Doctor, batch: Batch, validation: Batch | None, found: Peak | None = None) -> str:
    """Tries the longest batches before the first step.

    Args:
        doctor: Tries them.
        batch: The longest of training.
        validation: The longest of validation, if there is any.
        found: What the first one takes, if that was measured already.

    Returns:
        What they take, for people.

    Raises:
        TrainingError: They do not fit, with the numbers and changes with which they would.
    """
    fits = found is not None and found.total <= _find_limit(doctor, found)
    peak = found if found is not None and fits else _measure(doctor, batch, learns=True)
    line = f"longest batch: {describe_batch(batch)}, {show_gib(peak.bare)} of {{}} GiB at its peak"
    line += f", with the optimizer {show_gib(peak.total)}" if peak.waiting else ""
    if validation is not None:
        line += f"; of validation: {show_gib(_measure(doctor, validation, learns=False).total)}"
    forget_peak(doctor.hardware)
    limit = _find_limit(doctor, peak)
    if peak.total > limit * _USABLE:
        warn("the longest batch leaves less than 3 % of the memory free: a later step may run out of it")
    return line.format(show_gib(limit))


def _find_limit(doctor: Doctor, peak: Peak) -> int:
    """The most that this process can hold: what it held, it can."""
    return max(read_memory(doctor.hardware).limit, peak.bare)


def _measure(doctor: Doctor, batch: Batch, *, learns: bool) -> Peak:
    kind = "the longest batch" if learns else "the longest batch of validation"
    what = f"{kind}, {describe_batch(batch)},"
    failure: Failure
    try:
        peak = doctor.prober.measure(batch, learns=learns)
        if peak.total <= _find_limit(doctor, peak):
            return peak
        failure = Failure("", None, peak.total)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = read_failure(error, doctor.hardware)
    # Outside of the handler: the exception would hold what the pass has made
    if not learns:
        message = doctor.explain(failure, None, what).message
        raise TrainingError(message, f"Lower `eval_batch_size`, which is {doctor.config.batch.eval_size}.")
    raise doctor.explain(failure, batch, what)


def end_run(doctor: Doctor, failure: Failure) -> TrainingError:
    """Saves the last step, if memory ran out in a pass that has left the weights alone, and explains.

    Of several ranks, those whose memory has not run out take part: see `last_step.py`.
    """
    trainer = doctor.trainer
    batch, step = trainer.failed, trainer.state.global_step
    trainer.model.zero_grad()
    if num_ranks() == 1 or not doctor.hardware.is_gpu:
        # With several GPUs it may wait for a sum over ranks that never comes; copies of weights do not need it
        release_memory(doctor.hardware)
    saved = trainer.save_last_step()
    outcome = saved.describe(step)
    if saved.folder is not None:
        note(f"out of memory in step {step + 1:,}: {outcome}")
    what = (
        f"a batch of step {step + 1:,}, {describe_batch(batch)},"
        if batch is not None
        else f"what follows the passes of step {step + 1:,} (update, validation or checkpoint)"
    )
    try:
        if num_ranks() > 1:
            leave_wrapper_(trainer)
        error = doctor.explain(failure, batch, what)
    finally:
        if trainer.watch is not None:
            trainer.watch.explain()
    return TrainingError(error.message + (f"; {outcome}" if outcome else ""), error.fix)


def leave_wrapper_(trainer: SiredonTrainer) -> None:
    """Lets a pass of the model be one of this rank alone: DDP's hooks would send its gradients to the others."""
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()


def guard_memory_(trainer: SiredonTrainer, base: Any, config: Config, hardware: Hardware) -> None:
    """Lets a run try its longest batch, and end with an explanation when memory runs out.

    Args:
        trainer: The run's, with its data.
        base: The model of transformers inside the trainer's.
        config: The whole config.
        hardware: The device.

    Raises:
        TrainingError: Several ranks are to make a step again, of which the others know nothing.
    """
    memory, batch = config.memory, config.batch
    repeats = memory.on_out_of_memory == "retry"
    if repeats and num_ranks() > 1:
        raise TrainingError(
            "`on_out_of_memory: retry` works with one process only: the other ranks would wait for a step that this "
            "one makes again",
            "Write `on_out_of_memory: stop`.",
        )
    optimizer = config.optimizer
    accumulates = batch.gradient_accumulation_steps > 1
    doctor = Doctor(
        trainer,
        Prober(trainer, optimizer.optimizer, hardware, accumulates=accumulates),
        config,
        base,
        hardware,
    )
    trainer.memory_guard = MemoryGuard(
        hardware, repeats, not optimizer.updates_in_backward, partial(end_run, doctor)
    )
    if num_ranks() > 1 and trainer.memory_guard.keeps_weights:
        trainer.watch = LastStepWatch(trainer)
    compiles = bool(config.compile.torch_compile)
    # A backward pass that updates weights cannot be tried without doing so
    tries = not optimizer.updates_in_backward and is_probed(
        memory.probe_longest_batch, hardware, compiles=compiles
    )
    planner = None
    if memory.gradient_checkpointing == "auto":
        record = config.checkpoint.output_folder / "run.json"
        # Resident memory is too coarse to choose by: what was freed counts as held, and nothing else may run
        planner = Planner(doctor.prober, base, hardware, tries and hardware.is_gpu, record)
    if tries or planner:
        trainer.add_callback(LongestBatch(partial(_probe, doctor, planner, tries=tries)))


def _probe(doctor: Doctor, planner: Planner | None, *, tries: bool) -> str:
    batch, length = doctor.config.batch, doctor.config.data.sequence_len
    # Those of the trainer: a method may have added to what was prepared
    train, collator = doctor.trainer.train_dataset, doctor.trainer.data_collator
    if isinstance(train, Stream):
        longest = fill_batch(length, collator, batch.micro_batch_size)
    else:
        longest = find_longest(train, collator, batch.micro_batch_size)
    plan = planner.plan_(longest) if planner else None
    if not tries:
        return ""
    rows = doctor.trainer.eval_dataset if doctor.config.eval_strategy != "no" else None
    validation = find_longest(rows, collator, batch.eval_size) if rows else None
    return probe_longest(doctor, longest, validation, plan.peak if plan else None)
