"""A server that is a process of its own: started, waited for, and ended with this one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from siredon.errors import ServeError
from siredon.serve.wanted import Address

_POLL_SECONDS, _END_SECONDS = 0.5, 30.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what is asked for is asked on this machine


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Args:
        command: The program and its words.
        variables: Variables of its environment, beside those of this process.
        hidden: Those of this process that it does not get.
    """

    command: Sequence[str]
    variables: Mapping[str, str]
    hidden: Sequence[str] = ()


def run_child(launch: Launch, address: Address, on_ready: Callable[[], None]) -> None:
    """Runs a server until it ends, or this process is told to.

    Args:
        launch: How it is started.  What it writes goes to stderr.
        address: Where its `/health` is asked.
        on_ready: Called once it answers.

    Raises:
        ServeError: It ended by itself.
    """
    variables = {name: value for name, value in os.environ.items() if name not in launch.hidden}
    with (
        ended_by_signals(),
        subprocess.Popen(
            launch.command, stdout=2, env={**variables, **launch.variables}, start_new_session=True
        ) as child,
    ):
        try:
            while child.poll() is None and not _is_ready(address):
                threading.Event().wait(_POLL_SECONDS)
            if child.poll() is None:
                on_ready()
            status = child.wait()
        finally:
            _end(child)
    raise ServeError(
        f"{launch.command[0]} has ended by itself, with status {status}", "What it said above says why."
    )


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that what was started in it is ended too."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_ready(address: Address) -> bool:
    host = _EVERYWHERE.get(address.host, address.host)
    shown = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(f"http://{shown}:{address.port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, and makes it and its children if it does not."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
