"""`Trainer` that can go back to the end of its last step when memory runs out, and make a step row by row."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siredon.data.types import Batch
from siredon.distributed.ranks import num_ranks
from siredon.errors import TrainingError
from siredon.hardware import Hardware, is_out_of_memory, read_peak_bytes, release_memory
from siredon.log import warn
from siredon.train.interruptible import InterruptibleTrainer

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
        self._num_repeats = 0
        self._done: list[Batch] = []  # micro-batches of this step
        self._go_back: Callable[[], None] | None = None

    def mark_counts(self) -> Callable[[], None]:
        """What has been counted so far; calling it goes back there."""
        raise NotImplementedError

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass; in rows where memory has run out, if that is asked for."""
        guard = self.memory_guard
        repeats = guard is not None and guard.repeats and self._num_repeats < MOST_REPEATS
        go_back = self.mark_counts() if repeats else None
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._keep(inputs)
            return loss
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.failed = inputs
            if go_back is None:
                raise
            reason = str(error).splitlines()[0]
        # Outside of the handler: the exception would hold what the pass has made
        go_back()
        loss = self._repeat(model, num_items_in_batch, reason)
        self._keep(inputs)
        return loss

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
        go_back = self.mark_counts()
        for batch in self._done:
            self._run_rows(model, batch, num_items)
        go_back()
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
        if self.memory_guard is not None and self.memory_guard.keeps_weights and num_ranks() == 1:
            self._go_back = self._mark()

    def _mark(self) -> Callable[[], None]:
        """Where counts and random numbers are, at the end of a step: a checkpoint of it has them."""
        counts, kind = self.mark_counts(), self.args.device.type
        plain, array, numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
        module = torch.get_device_module(kind) if kind != "cpu" else None
        device = module.get_rng_state() if module else None

        def go_back_() -> None:
            counts()
            random.setstate(plain)
            np.random.set_state(array)
            torch.set_rng_state(numbers)
            if module:
                module.set_rng_state(device)

        return go_back_

    def save_last_step(self) -> Path | None:
        """Writes a checkpoint of the last step that was finished, after one that has failed.

        Returns:
            Its folder; None where the weights are not those of that step, or no step was made.
        """
        if self.failed is None or self._go_back is None:
            return None
        place = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if place.is_dir():
            return place
        self._go_back()
        self.args.save_only_model = False
        self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.finish_saving()
        return place


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
    if "desirable" in batch:
        found["desirable"] = batch["desirable"]
    return found


def read_failure(error: BaseException, hardware: Hardware) -> Failure:
    """What an exception says of the moment."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = _ASKED.search(str(error))
    asked = int(float(found[1].rstrip(".")) * _UNITS[found[2] or "bytes"]) if found else None
    return Failure(reason, asked, read_peak_bytes(hardware))
