"""The watchdog over time: a run in which nothing is finished any more shows where it hangs, and ends.

A step that waits for ever is waited for by the other ranks: their watchdogs end them too, and each shows its stacks.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.distributed.ranks import num_ranks, rank

#: Where stacks are written, in `output_dir`.
FOLDER = "stall"
#: Exit status of a run that has stalled.  Not that of one that can simply be started again: it would hang again.
STATUS = 1

#: Without `stall_timeout`: so many times the slowest of so many steps, and at least so many seconds.
_TIMES, _RECENT, _SECONDS = 20.0, 50, 600.0
#: For what has no rhythm: the first step, with compiling, a batch of a validation, a checkpoint.
_SECONDS_FOR_REST = 3600.0
_SECONDS_BETWEEN_LOOKS = 0.5
#: After this much more, what holds the interpreter itself is ended from outside of it.
_SECONDS_FOR_INTERPRETER = 15.0
#: In which the other ranks see that this one is about to end, before the launcher ends them.
_SECONDS_FOR_OTHERS = 5.0


class StallWatch(TrainerCallback):
    """Ends the process with status 1 when no step has been finished for too long.

    The stacks of all threads go to `stall/rank-N.txt` and to stderr.  The process is ended by `os._exit`: what hangs
    cannot be asked to end.  A checkpoint that is being written is not published then.

    Args:
        output: `output_dir`.
        timeout_seconds: The longest step from the second on; None for 20 times the slowest recent one, and at least
            10 minutes.
    """

    def __init__(self, output: Path, timeout_seconds: float | None) -> None:
        self._folder = output / FOLDER
        self._timeout = timeout_seconds
        self._began = time.time()
        self._mark = time.monotonic()
        self._deadline = float("inf")
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._step = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def find_limit(self) -> float:
        """The longest that the next step may take, in seconds."""
        if not self._recent:
            return max(self._timeout or 0.0, _SECONDS_FOR_REST)
        return max(_SECONDS, _TIMES * max(self._recent)) if self._timeout is None else self._timeout

    def beat(self, *, busy: bool = False) -> None:
        """Something was finished.

        Args:
            busy: A validation or a checkpoint comes before the next step.
        """
        limit = max(self.find_limit(), _SECONDS_FOR_REST) if busy else self.find_limit()
        self._mark = time.monotonic()
        self._deadline = self._mark + limit
        # Runs without the interpreter, which may be what hangs
        faulthandler.dump_traceback_later(limit + _SECONDS_FOR_INTERPRETER, exit=True, file=2)

    def close(self) -> None:
        """Watches no more."""
        self._deadline = float("inf")
        faulthandler.cancel_dump_traceback_later()
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins to watch."""
        self._step = state.global_step
        self._closed.clear()
        self.beat()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A step: from the end of what came before it, loading of its rows included."""
        self._recent.append(time.monotonic() - self._mark)
        self._step = state.global_step
        self.beat(busy=_is_busy(control))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What an epoch asks for at its end may come next."""
        self.beat(busy=_is_busy(control))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A checkpoint may come next."""
        self.beat(busy=control.should_save)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Trackers have had their numbers."""
        self.beat(busy=_is_busy(control))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The next step comes next."""
        self.beat()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What is left has an end."""
        self.close()

    def _watch(self) -> None:
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            if time.monotonic() > self._deadline:
                self._end(f"nothing was finished for {time.monotonic() - self._mark:,.0f} s")
            elif num_ranks() > 1 and self._has_other_ended():
                self._end("another rank has stalled, and this one was ended with it")

    def _has_other_ended(self) -> bool:
        """Whether another rank of this run has written its stacks: the launcher will end this one."""
        mine = self._name(rank())
        files = self._folder.glob("rank-*.txt") if self._folder.is_dir() else ()
        return any(path != mine and path.stat().st_mtime > self._began for path in files)

    def _name(self, number: int) -> Path:
        return self._folder / f"rank-{number}.txt"

    def _end(self, what: str) -> None:
        path = self._name(rank())
        text = (
            f"error: rank {rank()}, after step {self._step:,}: {what}; the stacks of its threads are below and in "
            f"{path}\n"
            "  fix: The stack of the main thread says what hangs: a function of yours, a file system, another rank. "
            "If it was only slow, raise `stall_timeout`; 0 never ends a run.\n"
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as stream:
                stream.write(text)
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
            os.write(2, path.read_bytes())
        except OSError as error:
            # The disk may be what hangs, or be full
            os.write(2, f"{text}(not written to a file: {error})\n".encode())
            faulthandler.dump_traceback(2, all_threads=True)
        sys.stdout.flush()
        if num_ranks() > 1:
            time.sleep(_SECONDS_FOR_OTHERS)
        os._exit(STATUS)


def _is_busy(control: TrainerControl) -> bool:
    return bool(control.should_evaluate or control.should_save or control.should_training_stop)
