"""A record of some optimizer steps: what ran when, as a trace to look at in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.hardware import Hardware, record_memory, save_memory_record
from siredon.log import note


class Profiler(TrainerCallback):
    """Records operations with `torch.profiler`, and on a GPU every allocation too.

    Each rank writes `trace-<rank>.json`, for chrome://tracing or https://ui.perfetto.dev, and on a GPU
    `memory-<rank>.pickle`, for https://pytorch.org/memory_viz.

    Args:
        folder: Where to.
        first: Optimizer steps before the record begins.
        count: Optimizer steps recorded.
        hardware: What runs.
    """

    def __init__(self, folder: Path, first: int, count: int, hardware: Hardware) -> None:
        self.folder = folder
        self.first = first
        self.count = count
        self.hardware = hardware
        self._running: Any = None
        self._rank = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins, before the step that is to be the first."""
        if state.global_step != self.first or self._running is not None:
            return
        self._rank = args.process_index
        kinds = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
        self._running = torch.profiler.profile(activities=kinds, record_shapes=True)
        record_memory(self.hardware, on=True)
        self._running.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends after the last one."""
        if state.global_step >= self.first + self.count:
            self._finish()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends with the run, if it is shorter."""
        self._finish()

    def _finish(self) -> None:
        if self._running is None:
            return
        self._running.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"trace-{self._rank}.json"
        self._running.export_chrome_trace(str(trace))
        save_memory_record(self.hardware, self.folder / f"memory-{self._rank}.pickle")
        record_memory(self.hardware, on=False)
        self._running = None
        note(f"profile: {trace}")
