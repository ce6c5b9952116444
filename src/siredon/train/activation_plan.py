"""`gradient_checkpointing: auto`: how few layers need to be recomputed for the longest batch to fit.

What each layer keeps is counted on the model itself; what a plan takes is measured where the longest batch is tried,
and corrects the count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from siredon.data.types import Batch
from siredon.distributed.ranks import largest_of_ranks
from siredon.hardware import Hardware, count_retries, is_out_of_memory, read_memory
from siredon.log import is_main_process, note, warn
from siredon.model.memory import offload_activations_
from siredon.model.recompute import recompute_first_
from siredon.train.activation_sizes import Sizes, count_sizes
from siredon.train.probe import Peak, Prober, describe_batch, show_gib
from siredon.train.record import extend_record

#: The part of the memory that a plan may use.  What is given up, a layer or two, is cheaper than a run that ends.
USABLE = 0.95
#: The same for a plan that is not tried: workspaces and gaps are not counted.
USABLE_UNTRIED = 0.85
#: The part of the room that a plan leaves in which attention may be kept: what one layer keeps is known well.
_USED_OF_REST = 0.95
#: How often plans are tried, if trying does not show earlier that none is cheaper.
MOST_TRIES = 4
#: More than any device has: what stands for a figure where memory ran out.
_TOO_MUCH = 2**60


def choose_count(predict: Callable[[int], float], counts: Sequence[int], room: int) -> int | None:
    """The first of `counts` with which the prediction fits into `room` bytes."""
    return next((count for count in counts if predict(count) <= room), None)


@dataclass
class Search:
    """Finds the smallest number of recomputed layers that fits, from a prediction and few measurements.

    Args:
        sizes: Predicts.
        room: Bytes that activations and gradients may take.
    """

    sizes: Sizes
    room: int
    too_few: int = -1
    best: int | None = None
    _points: list[tuple[int, int]] = field(default_factory=list)

    def propose(self) -> int | None:
        """The number to try next; None if no other can be better, or none fits."""
        last = self.sizes.num_layers
        if self.too_few >= last:
            return None
        counts = range(self.too_few + 1, last + 1 if self.best is None else self.best)
        found = choose_count(self._correct, counts, self.room)
        if found is None and self.best is None:
            return last
        if found is not None and self.too_few >= 0 and not self._points:
            # Memory ran out without a figure, so the prediction is wrong by an unknown amount: that of the last
            # resort, which is measured in any case, sets it right.
            return last
        return self._propose_one_less() if found is None else found

    def _propose_one_less(self) -> int | None:
        """One layer fewer than the best, if a single measurement says that half of what that needs is there."""
        if not self.best or self.best - 1 == self.too_few or len(self._points) > 1:
            return None
        needed = self.sizes.predict(self.best - 1) - self.sizes.predict(self.best)
        return self.best - 1 if self.room - self._points[0][1] >= needed / 2 else None

    def learn(self, count: int, taken: int | None) -> None:
        """What came out.

        Args:
            count: Layers that were recomputed.
            taken: Bytes of activations and gradients; None where memory ran out.
        """
        if taken is not None:
            self._points.append((count, taken))
        if taken is not None and taken <= self.room:
            self.best = count
        else:
            self.too_few = max(self.too_few, count)

    def taken(self, count: int) -> int:
        """What a number of recomputed layers took, or would take by the prediction, in bytes."""
        return dict(self._points).get(count, self.sizes.predict(count))

    def _correct(self, count: int) -> float:
        """The prediction, on the line through the last two measurements; moved by what the only one was off."""
        predicted = float(self.sizes.predict(count))
        if not self._points:
            return predicted
        (last, taken), others = self._points[-1], self._points[:-1]
        at_last = self.sizes.predict(last)
        for other, other_taken in reversed(others):
            difference = self.sizes.predict(other) - at_last
            if difference:
                slope = (other_taken - taken) / difference
                return taken + max(slope, 0.0) * (predicted - at_last)
        return taken + predicted - at_last


@dataclass(frozen=True)
class Plan:
    """What is recomputed.

    Args:
        recomputed: How many layers, the first ones.
        num_layers: Of so many.
        offloads: What is kept waits in RAM.
        taken: Bytes that the process then holds with the longest batch, at most; None where memory ran out.
        peak: The same, where it was measured.
        keeping: In how many of the recomputed layers, the last of them, attention is not computed again.
    """

    recomputed: int
    num_layers: int
    offloads: bool
    taken: int | None
    peak: Peak | None
    keeping: int = 0

    def describe(self, batch: Batch, limit: int) -> str:
        """For people.

        Args:
            batch: The longest.
            limit: Bytes that the process can hold.
        """
        if self.recomputed == 0:
            what = "no layer recomputed"
        elif self.recomputed == self.num_layers:
            what = "every layer recomputed"
        else:
            what = f"{self.recomputed} of {self.num_layers} layers recomputed"
        if self.keeping:
            where = "" if self.keeping == self.recomputed else f" in {self.keeping} of them"
            what += f", but for attention{where}"
        what += ", what is kept waits in pinned RAM" * self.offloads
        how, about = ("measured", "") if self.peak else ("estimated from what its layers keep", "about ")
        return (
            f"memory: gradient_checkpointing auto: {what}; the longest batch, {describe_batch(batch)}, takes "
            f"{about}{show_gib(self.taken or 0)} of {show_gib(limit)} GiB ({how})"
        )


@dataclass(frozen=True)
class Planner:
    """Chooses a plan, and puts it into effect.  All ranks choose the same one.

    Args:
        prober: Tries batches on the model.
        base: The model of transformers inside the trainer's.
        hardware: The device.
        tries: Plans are tried; else the count alone decides.
        record: `run.json`, which says what was chosen.
    """

    prober: Prober
    base: Any
    hardware: Hardware
    tries: bool
    record: Path

    def plan_(self, batch: Batch) -> Plan:
        """Has as few layers recomputed as the longest batch lets; says so, also in the record."""
        sizes = count_sizes(self.prober, self.base, batch)
        memory, fixed = read_memory(self.hardware), self._count_fixed()
        # The tightest of all ranks
        usable = USABLE if self.tries else USABLE_UNTRIED
        search = Search(sizes, -self._largest(fixed - int(memory.limit * usable)))
        plan = self._try_(search, batch) if self.tries else _estimate(search, fixed)
        plan = self._keep_attention_(plan, search, batch)
        recompute_first_(self.base, plan.recomputed, plan.keeping)
        if is_main_process() and self.record.is_file():
            facts = {"recomputed_layers": plan.recomputed, "num_layers": plan.num_layers}
            facts |= {"keep_attention": plan.keeping, "offloads": plan.offloads}
            extend_record(self.record, gradient_checkpointing=facts)
        if plan.taken is not None:
            note(plan.describe(batch, memory.limit))
        if plan.peak is None and plan.taken is not None and plan.taken > memory.limit:
            warn("memory may run out in the longest batch, by the estimate even with every layer recomputed")
        return plan

    def _try_(self, search: Search, batch: Batch) -> Plan:
        peaks: dict[int, Peak | None] = {}
        last = search.sizes.num_layers
        count = search.propose()
        for tries_left in reversed(range(MOST_TRIES)):
            if count is None:
                break
            if not tries_left and search.best is None:
                count = last
            recompute_first_(self.base, count)
            peaks[count], excess = self._measure(batch)
            search.learn(count, search.room + excess if excess < _TOO_MUCH else None)
            count = search.propose()
        best = last if search.best is None else search.best
        peak = peaks[best]
        offloads = search.best is None and self.hardware.is_gpu
        if offloads:
            undo = offload_activations_(self.prober.trainer.model, self.hardware)
            parked, excess = self._measure(batch)
            offloads = excess <= 0
            if offloads:
                peak = parked
            else:
                undo()
        return Plan(best, last, offloads, None if peak is None else peak.total, peak)

    def _keep_attention_(self, plan: Plan, search: Search, batch: Batch) -> Plan:
        """The plan, with attention kept in as many of its recomputed layers as what is left of the room allows."""
        each, left = search.sizes.attention, search.room - search.taken(plan.recomputed)
        keeping = min(plan.recomputed, int(left * _USED_OF_REST) // each) if each else 0
        if plan.offloads or keeping <= 0:
            return plan
        if not self.tries:
            return replace(plan, keeping=keeping, taken=(plan.taken or 0) + keeping * each)
        recompute_first_(self.base, plan.recomputed, keeping)
        peak, excess = self._measure(batch)
        if peak is None or excess > 0:
            return plan
        return replace(plan, keeping=keeping, taken=peak.total, peak=peak)

    def _measure(self, batch: Batch) -> tuple[Peak | None, int]:
        """The peak on this rank, None where memory ran out, and by how many bytes it is too much on the fullest."""
        limit = read_memory(self.hardware).limit
        retries = count_retries(self.hardware)
        peak: Peak | None = None
        try:
            peak = self.prober.measure(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        excess = _TOO_MUCH if peak is None else peak.total - int(limit * USABLE)
        if count_retries(self.hardware) > retries:
            # It fits only if the allocator gives back what it has cached, which takes time at each step.
            excess = max(excess, int((1 - USABLE) * limit))
        return peak, self._largest(excess)

    def _count_fixed(self) -> int:
        """Bytes that are held besides activations, and gradients as they come to be."""
        held = read_memory(self.hardware).own + self.prober.count_waiting()
        return held + (self.prober.count_gradients() if self.prober.accumulates else 0)

    def _largest(self, value: int) -> int:
        return largest_of_ranks(value, self.prober.trainer.args.device)


def _estimate(search: Search, fixed: int) -> Plan:
    count = search.propose()
    assert count is not None, "nothing was tried yet"
    return Plan(count, search.sizes.num_layers, False, fixed + search.sizes.predict(count), None)
