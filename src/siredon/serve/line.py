"""Requests in a line before one model: one thread answers them, the first that came first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from siredon.hardware import is_out_of_memory
from siredon.log import warn
from siredon.serve.engines.transformers import Engine
from siredon.serve.sampling import Sampling
from siredon.serve.watch import Piece, Reason, Watch


@dataclass(frozen=True)
class Done:
    """All answers of a job have ended.

    Args:
        num_tokens: New tokens, over all of them.
    """

    num_tokens: int


@dataclass(frozen=True)
class Failed:
    """A job that the model could not do.

    Args:
        message: What to tell the client.
    """

    message: str


Event = Piece | Done | Failed


@dataclass(eq=False)
class Job:
    """A prompt that waits for its answers.

    Args:
        engine: What answers it.
        prompt: Its tokens.
        sampling: How tokens are chosen.
        deadline: When it is over, on the clock of `time.monotonic`, in seconds.
        on_event: Gets what happens, in the line's thread; must not wait.
    """

    engine: Engine
    prompt: Sequence[int]
    sampling: Sampling
    deadline: float
    on_event: Callable[[Event], None]
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for it any more: it ends with the token that is being chosen."""
        self._cancelled.set()

    def find_end(self) -> Reason | None:
        """Why it is to end now, if it is."""
        if self._cancelled.is_set():
            return "cancelled"
        return "timeout" if time.monotonic() > self.deadline else None


class LineFullError(Exception):
    """As many requests wait as may."""


class Line:
    """A line of jobs.

    Args:
        max_waiting: Most jobs that wait, beside the one that is done.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._jobs: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="siredon-line", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    @property
    def num_running(self) -> int:
        """Jobs that are done just now: 0 or 1."""
        return int(self._running is not None)

    @property
    def is_alive(self) -> bool:
        """Whether somebody answers."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def join(self, job: Job) -> None:
        """Puts a job at the end of the line.

        Raises:
            LineFullError: There is no room.
        """
        with self._changed:
            if len(self._jobs) >= self.max_waiting and (self._running is not None or self._jobs):
                raise LineFullError
            self._jobs.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Takes a job out of the line, or ends it."""
        job.cancel()
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Ends all jobs, and waits for the thread."""
        with self._changed:
            self._closed = True
            for job in [*self._jobs, *([self._running] if self._running else [])]:
                job.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.on_event(_do(job))

    def _next(self) -> Job | None:
        with self._changed:
            self._running = None
            while not self._jobs and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._running = self._jobs.popleft()
            return self._running


def _do(job: Job) -> Event:
    end = job.find_end()
    if end:  # It has waited too long
        job.on_event(Piece(0, "", end))
        return Done(0)
    try:
        drafts = job.engine.write(job.prompt, job.sampling, Watch(job.on_event, job.find_end))
    except Exception as error:  # noqa: BLE001  one request must not end the server
        what = "the answer does not fit into memory" if is_out_of_memory(error) else "the model failed"
        warn(f"{what}: {type(error).__name__}: {error}")
        return Failed(f"{what}; the server's log says more")
    return Done(sum(draft.num_tokens for draft in drafts))
