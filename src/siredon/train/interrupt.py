"""Signals and the time limit: where a run ends before its time, so that it can go on.

Before training there is nothing to save, and the run ends where it stands.  Once a step has been made, what asks for
the end is only remembered; `callbacks/interrupter.py` looks at it where everything can be saved.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from siredon.errors import Interrupted
from siredon.log import is_main_process, warn

if TYPE_CHECKING:
    from siredon.config.schema import Config

#: Exit status of a run that can go on: EX_TEMPFAIL of sysexits.h, "try again".
RESUME_ME = 75
#: Exit status after a second Ctrl-C: that of a process that SIGINT has ended.
QUIT = 130
#: Beside the run's files while it waits to go on.  torchrun has an exit status of its own, which does not tell.
NOTICE = "interrupted.json"
#: In the place of a signal's number.
MAX_TIME = 1000

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: torchrun passes on the Ctrl-C that its processes have had from the terminal already.
_SECONDS_OF_ONE_CTRL_C = 3.0
#: Room for the first checkpoint, of which nobody knows how long it takes: at most this, at most this share.
_SECONDS_TO_SAVE, _SHARE_TO_SAVE = 60.0, 0.1

_CURRENT: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


class Interruption:
    """What has asked the run to end, if anything has."""

    def __init__(self) -> None:
        self.max_seconds: float | None = None
        #: `run.json` of the run, once it is written.
        self.record: Path | None = None
        self._began = time.monotonic()
        self._process = os.getpid()
        self._code = 0
        self._num_holds = 0
        self._is_deferred = False
        self._has_raised = False
        self._first_ctrl_c: float | None = None
        self._num_steps = 0
        self._longest_step = 0.0
        self._longest_save: float | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: ends the run at once where nothing is to be saved, else remembers.

        Raises:
            Interrupted: Nothing is to be saved.
        """
        del frame
        if os.getpid() != self._process:
            _receive_in_fork(number)
            return
        if number == signal.SIGINT and self._is_second_ctrl_c():
            _say("SIGINT again: quitting, nothing is saved")
            os._exit(QUIT)
        if not self._code:
            self._code = number
            self._announce(number)
        self._raise_if_free()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets a few lines come to their end before a signal ends the run.

        Raises:
            Interrupted: One came meanwhile.
        """
        self._num_holds += 1
        try:
            yield
        finally:
            self._num_holds -= 1
        if self._code:
            self._raise_if_free()

    @contextmanager
    def recalled(self) -> Iterator[None]:
        """Lets what a signal raised be that, where something on the way made another error of it.

        pydantic does, when a signal comes while a class is built, as in the import of a package.

        Raises:
            Interrupted: A signal has ended what was done within.
        """
        try:
            yield
        except Exception as error:
            if not self._has_raised:
                raise
            raise Interrupted(name_code(self._code)) from error

    def defer(self) -> None:
        """From now on signals are only remembered."""
        self._is_deferred = True

    def find_code(self) -> int:
        """Number of the signal that came, or `MAX_TIME` if a step and a checkpoint more may take too long; else 0.

        A run makes one step at least, however short its time: else one started again and again would never end.
        """
        if self._code or self.max_seconds is None or not self._num_steps:
            return self._code
        save = self._longest_save
        if save is None:
            save = min(_SECONDS_TO_SAVE, self.max_seconds * _SHARE_TO_SAVE)
        left = self.max_seconds - (time.monotonic() - self._began)
        return MAX_TIME if left < self._longest_step + save else 0

    def note_step(self, seconds: float) -> None:
        """Remembers how long an optimizer step has taken."""
        self._num_steps += 1
        self._longest_step = max(self._longest_step, seconds)

    def note_save(self, seconds: float) -> None:
        """Remembers how long a checkpoint has taken."""
        self._longest_save = max(self._longest_save or 0.0, seconds)

    def _is_second_ctrl_c(self) -> bool:
        now = time.monotonic()
        if self._first_ctrl_c is None:
            self._first_ctrl_c = now
            return False
        is_same = "TORCHELASTIC_RUN_ID" in os.environ and now - self._first_ctrl_c < _SECONDS_OF_ONE_CTRL_C
        return not is_same

    def _announce(self, number: int) -> None:
        if not is_main_process():
            return
        waits = self._is_deferred or self._num_holds
        then = "the step is finished, everything is saved, then the run ends" if waits else "the run ends"
        again = "; Ctrl-C again quits at once" if number == signal.SIGINT else ""
        _say(f"{name_code(number)}: {then}{again}")

    def _raise_if_free(self) -> None:
        if self._is_deferred or self._num_holds or self._has_raised:
            return
        # Once: what cleans up on the way out is not to be interrupted again.
        self._has_raised = True
        raise Interrupted(name_code(self._code))


def name_code(code: int) -> str:
    """`SIGTERM` and the like, or the key of the time limit."""
    return "max_time" if code == MAX_TIME else signal.Signals(code).name


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Listens to signals, and afterwards leaves them to whoever listened before.

    Within another call of it: the same as there.  In a thread other than the main one, which gets no signals, nobody
    listens.  A signal that the process was started to ignore stays ignored.
    """
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    interruption = Interruption()
    token = _CURRENT.set(interruption)
    before = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        # None is a handler that is not Python's: it could not be put back
        before = {number: old for number, old in found.items() if old not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, interruption.receive)
        with interruption.recalled():
            yield interruption
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        _CURRENT.reset(token)


@contextmanager
def interruptible_run(config: Config) -> Iterator[Interruption]:
    """Listens for the time of a run, and writes down that it was interrupted, for whoever starts it again."""
    notice = config.checkpoint.output_folder / NOTICE
    if is_main_process() and notice.is_file():
        notice.unlink()
    with interruptible() as interruption:
        interruption.max_seconds = config.stopping.max_time
        try:
            with interruption.recalled():
                yield interruption
        except Interrupted as interrupted:
            interrupted.setting = _choose_setting(interrupted, config)
            if is_main_process():
                _write_down(interrupted, notice, interruption.record)
            raise


def _choose_setting(interrupted: Interrupted, config: Config) -> str:
    section = config.checkpoint
    if not interrupted.checkpoint:
        return ""
    if section.resume_from_checkpoint:
        return f"resume_from_checkpoint={interrupted.checkpoint}"
    return "" if section.auto_resume_from_checkpoints else "auto_resume_from_checkpoints=true"


def _write_down(interrupted: Interrupted, notice: Path, record: Path | None) -> None:
    facts = {"by": interrupted.by, "step": interrupted.step, "checkpoint": interrupted.checkpoint or None}
    try:
        notice.parent.mkdir(parents=True, exist_ok=True)
        notice.write_text(json.dumps(facts) + "\n")
        if record is not None:
            from siredon.train.record import extend_record

            extend_record(record, interrupted=facts)
    except OSError as error:
        warn(f"{notice}: {error.strerror or error}")


def _receive_in_fork(number: int) -> None:
    """What the children of the run inherit: they end with it, or when it ends them."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _say(line: str) -> None:
    # The stream of `sys.stderr` may be in use, where a handler runs
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
