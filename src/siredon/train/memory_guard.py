"""`Trainer` that can go back to the end of its last step when memory runs out, and make a step row by row."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from siredon.data.types import Batch
from siredon.distributed.ranks import num_ranks
from siredon.errors import TrainingError
from siredon.hardware import (
    Hardware,
    is_out_of_memory,
    read_peak_bytes,
    release_memory,
    wait_for_compute,
)
from siredon.log import warn
from siredon.train.interruptible import InterruptibleTrainer

if TYPE_CHECKING:
    from siredon.train.last_step import LastStepWatch

#: Steps of a run that are made again; a run that needs more is too large for its device.
MOST_REPEATS = 10


_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB)?")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class Failure:
    """The moment at which memory ran out, without what it held.

    Args:
        reason: What PyTorch said, in a line.
        asked: Bytes that were asked for, if it said so.
        peak: The most that the process had held, in bytes.
    """

    reason: str
    asked: int | None
    peak: int


@dataclass(frozen=True)
class MemoryGuard:
    """What is done when memory runs out.

    Args:
        hardware: Where.
        repeats: The step is made again, row by row.
        keeps_weights: A step that has failed in its backward pass has left the weights alone.
        end: Saves what can be saved, and explains; to be called once what failed is out of the way.
    """

    hardware: Hardware
    repeats: bool
    keeps_weights: bool
    end: Callable[[Failure], TrainingError]


@dataclass(frozen=True)
class Counts:
    """What a run has counted and summed up so far; of several ranks, this one.

    Args:
        tokens: Trained on, on all ranks.
        targets: Learned, on all ranks.
        flos: Since the last checkpoint.
        step_loss: Of the step in hand; a scalar on the device.
        log_loss: Of the steps since the last log; a scalar on the device.
        sums: What else the next log line is made of, by name, on the device.
    """

    tokens: int
    targets: int
    flos: float
    step_loss: torch.Tensor
    log_loss: torch.Tensor
    sums: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Mark:
    """Where counts and random numbers were at the end of a step: a checkpoint of it has them.

    Args:
        step: Optimizer steps done.
        counts: The counts.
        random: States of the generators, as `Trainer` writes them in `rng_state.pth`.
    """

    step: int
    counts: Counts
    random: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """What became of the last step.

    Args:
        folder: Its checkpoint; None if there is none.
        reason: Why there is none; empty if there was nothing to save.
    """

    folder: Path | None = None
    reason: str = ""

    def describe(self, step: int) -> str:
        """For people."""
        if self.folder is not None:
            return f"step {step:,} is saved in {self.folder}"
        if not self.reason:
            return ""
        return f"step {step:,} could not be saved, and the last checkpoint stands: {self.reason}"


class MemoryGuardedTrainer(InterruptibleTrainer):
    """Knows the end of its last step, and can go back there when memory runs out.

    Args:
        options: What `transformers.Trainer` takes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: What is done when memory runs out; None leaves the exception alone.
        self.memory_guard: MemoryGuard | None = None
        #: The micro-batch for which memory ran out, if it was one of training.
        self.failed: Batch | None = None
        #: With several ranks, saves the last step when memory has run out on one of them.
        self.watch: LastStepWatch | None = None
        #: The end of the last step, where its weights are still those of that step; None before the first one.
        self.mark: Mark | None = None
        self._num_repeats = 0
        self._done: list[Batch] = []  # micro-batches of this step

    def mark_counts(self) -> Counts:
        """What has been counted so far."""
        raise NotImplementedError

    def restore_counts_(self, counts: Counts) -> None:
        """Goes back there."""
        raise NotImplementedError

    def train(self, *args: Any, **options: Any) -> Any:
        """Trains, and listens meanwhile for a rank whose memory has run out."""
        if self.watch is None:
            return super().train(*args, **options)
        self.watch.start()
        try:
            return super().train(*args, **options)
        finally:
            self.watch.stop()

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass; in rows where memory has run out, if that is asked for."""
        guard = self.memory_guard
        repeats = guard is not None and guard.repeats and self._num_repeats < MOST_REPEATS
        before = self.mark_counts() if repeats else None
        try:
            with self._in_pass():
                loss = super().training_step(model, inputs, num_items_in_batch)
            self._keep(inputs)
            return loss
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.failed = inputs
            if before is None:
                raise
            reason = str(error).splitlines()[0]
        # Outside of the handler: the exception would hold what the pass has made
        self.restore_counts_(before)
        loss = self._repeat(model, num_items_in_batch, reason)
        self._keep(inputs)
        return loss

    @contextmanager
    def _in_pass(self) -> Iterator[None]:
        """Lets the watch read weights, optimizer and counts: inside, this thread leaves them alone."""
        if self.watch is None:
            yield
            return
        # Moves the weights, with a schedule-free optimizer
        self.optimizer.train()
        with self.watch.may_save():
            yield
            if self.accelerator.sync_gradients:
                # A GPU is given its update ahead of time, though the sum over ranks may never come
                wait_for_compute(self.args.device)

    @contextmanager
    def scoring(self, batch: Batch) -> Iterator[None]:
        """Inside, a batch of the coming step is looked at without gradients, by the model as it validates.

        Memory that runs out there has run out for that batch.  (Of several ranks, the others wait in a collective.)
        """
        model: Any = self.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and num_ranks() == 1:
                self.failed = batch
            raise
        finally:
            model.train(was_training)

    def weights_away(self) -> AbstractContextManager[None]:
        """Inside, in the middle of a pass, the model has other weights for a while, and nobody may read them."""
        return nullcontext() if self.watch is None else self.watch.may_not_save()

    def _keep(self, batch: Batch) -> None:
        if self.memory_guard is not None and self.memory_guard.repeats:
            self._done.append(batch)

    def _repeat(
        self, model: torch.nn.Module, num_items: torch.Tensor | int | None, reason: str
    ) -> torch.Tensor:
        """Makes the step anew up to the micro-batch that has failed, row by row; the loss of that one."""
        assert self.memory_guard is not None
        assert self.failed is not None
        self._num_repeats += 1
        warn(
            f"out of memory in step {self.state.global_step + 1:,} ({reason}); the step is made again row by row "
            f"({self._num_repeats} of at most {MOST_REPEATS} times)"
        )
        model.zero_grad()
        release_memory(self.memory_guard.hardware)
        before = self.mark_counts()
        for batch in self._done:
            self._run_rows(model, batch, num_items)
        self.restore_counts_(before)
        loss = self._run_rows(model, self.failed, num_items)
        self.failed = None
        return loss

    def _run_rows(
        self, model: torch.nn.Module, batch: Batch, num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        losses = [
            super(MemoryGuardedTrainer, self).training_step(model, row, num_items) for row in cut_rows(batch)
        ]
        return torch.stack(losses).sum()

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **options)
        self._done.clear()
        if self.memory_guard is not None and self.memory_guard.keeps_weights:
            self.mark = Mark(self.state.global_step, self.mark_counts(), self._read_random())

    def _read_random(self) -> dict[str, Any]:
        kind = self.args.device.type
        found = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
        if kind != "cpu":
            module = torch.get_device_module(kind)
            found[kind] = module.get_rng_state() if num_ranks() == 1 else module.get_rng_state_all()
        return found

    def _go_back(self, mark: Mark) -> None:
        self.restore_counts_(mark.counts)
        kind = self.args.device.type
        random.setstate(mark.random["python"])
        np.random.set_state(mark.random["numpy"])
        torch.set_rng_state(mark.random["cpu"])
        if kind != "cpu":
            torch.get_device_module(kind).set_rng_state(mark.random[kind])

    def save_last_step(self) -> Saved:
        """Writes a checkpoint of the last step that was finished, after one that has failed.

        Nothing is written where the weights are not those of that step, or no step was made.
        """
        if self.failed is None or self.mark is None:
            return Saved()
        if num_ranks() > 1:
            return self.watch.save(self.mark.step) if self.watch is not None else Saved()
        place = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.saved_step == self.state.global_step:
            self.finish_saving()
            return Saved(place)
        self._go_back(self.mark)
        self.args.save_only_model = False
        self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.finish_saving()
        return Saved(place)


def cut_rows(batch: Batch) -> Iterator[Batch]:
    """Each pack of a batch as a batch of its own; padding at the end goes with the last."""
    num_packs = len(batch["num_tokens"])
    for index in range(num_packs):
        yield take_rows(batch, index, index + 1)


def take_rows(batch: Batch, start: int, end: int) -> Batch:
    """Packs `start` to `end` of a batch, also where all lie end to end in one row."""
    num_tokens, num_rows = batch["num_tokens"], len(batch["input_ids"])
    if num_rows == len(num_tokens):
        return _keep_packs(_map(batch, lambda values: values[start:end], num_tokens[start:end]), batch, start)
    first = int(num_tokens[:start].sum())
    last = int(num_tokens[:end].sum()) if end < len(num_tokens) else batch["input_ids"].shape[1]
    return _keep_packs(_map(batch, lambda values: values[:, first:last], num_tokens[start:end]), batch, start)


def _keep_packs(part: Batch, whole: Batch, start: int) -> Batch:
    """A part of a batch, with what is known of its own samples alone, numbered anew."""
    if "packs" not in whole:
        return part
    packs = whole["packs"] - start
    kept = (packs >= 0) & (packs < len(part["num_tokens"]))
    num_kept = int(kept.sum())
    part["packs"] = packs[kept]
    part["samples"] = (part["samples"] - (packs < 0).sum()).clamp(max=num_kept)
    if "reference" in whole:
        part["reference"] = whole["reference"][kept]
    if "margins" in whole:
        part["margins"] = whole["margins"][kept]
    if "places" in whole:
        part["places"] = whole["places"][kept]
    if "desirable" in whole:
        part["desirable"] = whole["desirable"][kept]
    return part


def take_tokens(batch: Batch, max_tokens: int) -> Batch:
    """At most so many tokens of every row; where packs lie end to end, as many of them as have room for that."""
    num_tokens, num_rows = batch["num_tokens"], len(batch["input_ids"])
    if num_rows == len(num_tokens):
        return _map(batch, lambda values: values[:, :max_tokens], num_tokens.clamp(max=max_tokens))
    width = max_tokens * len(num_tokens)
    shorter = torch.diff(num_tokens.cumsum(0).clamp(max=width), prepend=num_tokens.new_zeros(1))
    return _map(batch, lambda values: values[:, :width], shorter)


def _map(batch: Batch, cut: Callable[[torch.Tensor], torch.Tensor], num_tokens: torch.Tensor) -> Batch:
    found = Batch(
        input_ids=cut(batch["input_ids"]),
        labels=cut(batch["labels"]),
        position_ids=cut(batch["position_ids"]),
        num_tokens=num_tokens,
    )
    if "sources" in batch:
        found["sources"] = cut(batch["sources"])
    if "samples" in batch:
        found["samples"], found["packs"] = cut(batch["samples"]), batch["packs"]
    if "reference" in batch:
        found["reference"] = batch["reference"]
    if "margins" in batch:
        found["margins"] = batch["margins"]
    if "places" in batch:
        found["places"] = batch["places"]
    if "desirable" in batch:
        found["desirable"] = batch["desirable"]
    return found


def read_failure(error: BaseException, hardware: Hardware) -> Failure:
    """What an exception says of the moment."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = _ASKED.search(str(error))
    asked = int(float(found[1].rstrip(".")) * _UNITS[found[2] or "bytes"]) if found else None
    return Failure(reason, asked, read_peak_bytes(hardware))
