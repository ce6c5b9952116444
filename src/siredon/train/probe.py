"""The longest batch, tried: what it takes, measured on the model as it is, without a trace in the training."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siredon.data.collate import Collator, PackDataset
from siredon.data.types import IGNORE, Batch, Pack, Sample
from siredon.hardware import Hardware, forget_peak, read_memory, read_peak_bytes, release_memory
from siredon.train.space import estimate_sizes
from siredon.train.trainer import SiredonTrainer

#: Equally long packs of which the ones with most targets are looked for, unless a batch has more: targets have logits.
_MOST_LOOKED_AT = 64
#: Larger buffers of a model are taken for weights in few bits, which no forward pass changes.
_LARGEST_BUFFER_BYTES = 2**24


@dataclass(frozen=True)
class Peak:
    """What a batch takes, in bytes.

    Args:
        held: Held before: weights, and what else the process has.
        work: At most, on top of that: activations, and gradients as they come to be.
        waiting: What the first steps add, and was not yet there: state of the optimizer.
    """

    held: int
    work: int
    waiting: int

    @property
    def bare(self) -> int:
        """The peak, without what is still to come."""
        return self.held + self.work

    @property
    def total(self) -> int:
        """The peak in later steps."""
        return self.held + self.work + self.waiting


def count_bytes(values: Iterator[torch.Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(
        value.numel() * value.element_size() for value in {id(value): value for value in values}.values()
    )


class Prober:
    """Tries batches on the model of a trainer.

    Weights, gradients, optimizer, buffers, random numbers and counts are afterwards as they were before: nothing is
    updated, and what the forward pass changes is put back.

    Args:
        trainer: Its model is where it will be trained.
        optimizer: Name of the optimizer in the YAML, which says how much state will come.
        hardware: The device.
        accumulates: Gradients of micro-batches before are there while a batch is computed.
    """

    def __init__(
        self, trainer: SiredonTrainer, optimizer: str, hardware: Hardware, *, accumulates: bool
    ) -> None:
        self.trainer = trainer
        self.optimizer = optimizer
        self.hardware = hardware
        self.accumulates = accumulates

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [weight for weight in self.trainer.model.parameters() if weight.requires_grad]

    def count_weights(self) -> int:
        """Bytes of weights, buffers included."""
        model = self.trainer.model
        return count_bytes(iter([*model.parameters(), *model.buffers()]))

    def count_held(self) -> int:
        """Bytes of what the method holds beside the model: its reference."""
        return count_bytes(self.trainer.list_held())

    def count_gradients(self) -> int:
        """Bytes of all gradients."""
        return count_bytes(iter(self.trained))

    def count_state(self) -> int:
        """Bytes of the optimizer's state once it is there, as far as they are known."""
        if self.optimizer.startswith("paged_"):  # It waits in RAM
            return 0
        sizes = estimate_sizes(self.trainer.model, self.optimizer, is_adapter=True, saves_state=True)
        return max(sizes.optimizer, self._count_present())

    def _count_present(self) -> int:
        optimizer = self.trainer.optimizer
        states = optimizer.state.values() if optimizer is not None else ()
        return count_bytes(
            value
            for state in states
            if isinstance(state, dict)
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )

    def count_waiting(self) -> int:
        """Bytes of the optimizer's state that are not there yet."""
        state = self.count_state()
        return state - min(state, self._count_present())

    def measure(self, batch: Batch, *, learns: bool = True, accumulates: bool = False) -> Peak:
        """What a batch takes: forward and backward, or forward alone as in a validation.

        On a GPU it is trained on twice: the second time the allocator's cache is in pieces, as it is in every step but
        the first, and memory may run out that was enough in one piece.

        Args:
            batch: The batch.
            learns: With a backward pass.
            accumulates: Beside the gradients of micro-batches before, also where the run has none.

        Raises:
            torch.OutOfMemoryError: It does not fit; on a CPU a RuntimeError of the allocator.  See
                `hardware.is_out_of_memory`.
        """
        waiting = self.count_waiting()
        release_memory(self.hardware)
        with self.unchanged(learns=learns):
            # On a GPU the room is really taken.  In RAM nothing is taken before it is written.
            room = torch.empty(waiting, dtype=torch.uint8, device=self.trainer.args.device)
            held = read_memory(self.hardware).own - (waiting if self.hardware.is_gpu else 0)
            forget_peak(self.hardware)
            for _ in range(2 if learns and self.hardware.is_gpu else 1):
                self._run(batch, learns=learns, accumulates=accumulates or self.accumulates)
            peak = read_peak_bytes(self.hardware) - (waiting if self.hardware.is_gpu else 0)
            del room
        return Peak(held, max(0, peak - held), waiting)

    def _run(self, batch: Batch, *, learns: bool, accumulates: bool) -> None:
        trainer = self.trainer
        if not learns:
            inputs = trainer._prepare_inputs(batch)
            trainer.model.eval()
            with torch.no_grad(), trainer.compute_loss_context_manager():
                trainer._sum_rows(trainer.model, inputs)
            return
        for weight in self.trained:
            weight.grad = torch.zeros_like(weight) if accumulates else None
        self.run_forward(batch).backward()

    def run_forward(self, batch: Batch) -> Any:
        """The forward pass of training; gives the loss, a scalar.  To be called inside of `unchanged`."""
        trainer = self.trainer
        inputs = trainer._prepare_inputs(batch)
        num_targets = (inputs["labels"] != IGNORE).sum().clamp(min=1)
        trainer.model.train()
        with trainer.compute_loss_context_manager():
            return trainer.compute_loss(trainer.model, inputs, num_items_in_batch=num_targets)

    @contextmanager
    def unchanged(self, *, learns: bool = True) -> Iterator[None]:
        """What runs inside leaves no trace: counts, random numbers, gradients and buffers are put back behind it."""
        trainer, model = self.trainer, self.trainer.model
        was_training, counts = model.training, trainer.mark_counts()
        gradients = [(weight, weight.grad) for weight in self.trained] if learns else []
        buffers = [
            (buffer, buffer.clone())
            for buffer in model.buffers()
            if buffer.numel() * buffer.element_size() <= _LARGEST_BUFFER_BYTES
        ]
        try:
            with trainer.random_state_kept():
                yield
        finally:
            trainer.restore_counts_(counts)
            model.train(was_training)
            for weight, gradient in gradients:
                weight.grad = gradient
            with torch.no_grad():
                for buffer, kept in buffers:
                    buffer.copy_(kept)
            release_memory(self.hardware)


def find_longest(dataset: PackDataset, collator: Collator, size: int) -> Batch:
    """The largest micro-batch that can come up: the longest packs, and of those as long as the last the ones with most
    targets.

    Args:
        dataset: What is trained or measured on.
        collator: Makes batches.
        size: Packs of a micro-batch.
    """
    lengths = dataset.lengths
    order = np.argsort(-lengths, kind="stable")
    shortest = lengths[order[min(size, len(order)) - 1]]
    longer = [int(index) for index in order[:size] if lengths[index] > shortest]
    alike = np.flatnonzero(lengths == shortest)[: max(size, _MOST_LOOKED_AT)]
    packs = [dataset[index] for index in longer]
    candidates = [dataset[int(index)] for index in alike]
    packs += heapq.nlargest(size - len(longer), candidates, key=_count_targets)
    return collator(packs)


def fill_batch(max_tokens: int, collator: Collator, size: int) -> Batch:
    """The largest micro-batch of a stream, of which nobody knows the rows: as long as the config lets it be."""
    ids = np.full(max_tokens, collator.pad_id, dtype=np.int32)
    labels = ids.copy()
    labels[0] = IGNORE
    return collator([(Sample(ids, labels),)] * size)


def _count_targets(pack: Pack) -> int:
    return sum(sample.num_targets for sample in pack)


def describe_batch(batch: Batch) -> str:
    """For people: rows and tokens, padding included."""
    rows, width = batch["input_ids"].shape
    num_packs = len(batch["num_tokens"])
    return f"{num_packs} packs in {width:,} tokens" if num_packs > rows else f"{rows} x {width:,} tokens"


def show_gib(count: float) -> str:
    """For people, without the unit: a figure after the point, below one two that are not zero."""
    gib = count / 2**30
    return f"{gib:.1f}" if gib >= 1 or gib == 0 else f"{gib:.2g}"


def is_probed(setting: Any, hardware: Hardware, *, compiles: bool) -> bool:
    """Whether the longest batch is tried.

    Args:
        setting: `probe_longest_batch`.
        hardware: The device.
        compiles: Layers are compiled: for the shapes that come first, which must be those of the data.
    """
    return bool(setting) if isinstance(setting, bool) else hardware.is_gpu and not compiles
