"""Progress: a moving bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.logging import LoggingSection
from siredon.hardware import Hardware, read_peak_bytes
from siredon.log import is_terminal, note


class Progress(TrainerCallback):
    """Shows step, loss, learning rate, speed, memory and time left.

    Args:
        hardware: Whose memory is shown.
        section: What is logged besides.
        count_tokens: How many tokens all ranks have trained on so far, padding left out, and how many of them were
            learned.
    """

    def __init__(
        self, hardware: Hardware, section: LoggingSection, count_tokens: Callable[[], tuple[int, int]]
    ) -> None:
        self.hardware = hardware
        self.section = section
        self.count_tokens = count_tokens
        self._bar: Any = None
        self._task: Any = None
        self._first_step = 0
        self._mark = 0.0  # when the clock last ran on
        self._busy = (
            0.0  # seconds of training, waiting for the device included; validation and saving left out
        )
        self._logged = (0.0, 0, 0)  # busy seconds, tokens and learned tokens at the last log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the clock, and the bar if there is a terminal."""
        self._first_step = state.global_step
        self._mark = time.perf_counter()
        self._logged = (0.0, *self.count_tokens())
        if state.is_world_process_zero and is_terminal(sys.stderr):
            self._bar, self._task = _build_bar(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Runs the clock on, and moves the bar."""
        self._run_on()
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def _run_on(self) -> None:
        now = time.perf_counter()
        self._busy += now - self._mark
        self._mark = now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Adds speed and memory to the log, and shows it."""
        if logs is None or "train_runtime" in logs:
            return
        if "loss" in logs:
            # To read the loss is to wait for what the device has still to do of the step: that is training
            self._run_on()
            self._add_rates(logs, args.world_size)
            logs["peak_memory_gib"] = round(read_peak_bytes(self.hardware) / 2**30, 3)
        if state.is_world_process_zero:
            self._show(self._line(state, logs))
        self._mark = time.perf_counter()

    def _add_rates(self, logs: dict[str, Any], num_devices: int) -> None:
        """Tokens per second since the last log, validation and saving left out."""
        before, self._logged = self._logged, (self._busy, *self.count_tokens())
        seconds, tokens, learned = (now - then for now, then in zip(self._logged, before, strict=True))
        seconds = max(seconds, 1e-9)
        logs["tokens_per_second"] = round(tokens / seconds, 1)
        if self.section.include_tkps:
            logs["learned_tokens_per_second_per_device"] = round(learned / seconds / num_devices, 1)
        if self.section.include_tokens_per_second:
            logs["num_tokens"] = self._logged[1]

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leaves the time of saving out."""
        self._mark = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Takes the bar away."""
        self.close()

    def close(self) -> None:
        """Takes the bar away, also after an exception."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        width = len(str(state.max_steps))
        head = f"step {state.global_step:>{width}}/{state.max_steps}"
        if "eval_loss" in logs:
            shown = f"{head}  validation loss {logs['eval_loss']:.4f}"
            for name, value in logs.items():
                if name.startswith("eval_") and not name.endswith(("_loss", "_runtime", "_per_second")):
                    shown += f"  {name.removeprefix('eval_')} {value:.4g}"
            return shown
        done = state.global_step - self._first_step
        left = self._busy / done * (state.max_steps - state.global_step) if done else 0.0
        speed = f"{logs['tokens_per_second']:,.0f} tok/s"
        return (
            f"{head}  loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  "
            f"{speed}  {logs['peak_memory_gib']:.2f} GiB  {show_time(left)} left"
        )

    def _show(self, line: str) -> None:
        if self._bar is None:
            note(line)
        else:
            self._bar.console.print(line, highlight=False, markup=False)


def show_time(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _build_bar(state: TrainerState) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("training", total=state.max_steps, completed=state.global_step)
