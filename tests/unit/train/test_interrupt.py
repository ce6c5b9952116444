"""Who listens to signals, for how long, and what a signal does when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from siredon.config.load import load_config
from siredon.errors import Interrupted
from siredon.train.interrupt import (
    MAX_TIME,
    NOTICE,
    Interruption,
    interruptible,
    interruptible_run,
    name_code,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_handlers_are_those_of_before_once_it_is_over():
    before = handlers()
    with interruptible() as outer:
        during = handlers()
        assert all(handler == outer.receive for handler in during)
        with interruptible() as inner:
            assert inner is outer
        assert handlers() == during
    assert handlers() == before


def test_another_thread_leaves_signals_alone():
    before, found = handlers(), []

    def listen() -> None:
        with interruptible():
            found.extend(handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert interruption.find_code() == 0
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_ends_what_is_free_once_and_waits_for_what_is_held(capfd: pytest.CaptureFixture[str]):
    steps = []

    def hold(interruption: Interruption) -> None:
        with interruption.held():
            signal.raise_signal(signal.SIGUSR1)
            steps.append("held")

    with interruptible() as interruption:
        with pytest.raises(Interrupted) as caught:
            hold(interruption)
        assert caught.value.by == "SIGUSR1"
        # On the way out nothing is interrupted again
        signal.raise_signal(signal.SIGTERM)
        steps.append("cleaned")
    assert steps == ["held", "cleaned"]
    assert (
        capfd.readouterr().err == "\nSIGUSR1: the step is finished, everything is saved, then the run ends\n"
    )


def build_class_meanwhile(number: int) -> None:
    """A signal in the midst of work whose errors others wrap, as pydantic does those of a class that is built."""
    try:
        signal.raise_signal(number)
    except BaseException as error:
        raise ValueError("Error building `default` serializer") from error


@pytest.mark.parametrize("writes", [False, True])
def test_a_signal_that_came_out_as_another_error_is_still_the_signal(
    write_config: Any, tmp_path: Path, writes: bool
):
    config = load_config(str(write_config()))[0]
    with (
        pytest.raises(Interrupted, match="SIGTERM") as caught,
        interruptible_run(config) if writes else interruptible(),
    ):
        build_class_meanwhile(signal.SIGTERM)
    assert isinstance(caught.value.__cause__, ValueError)
    assert (tmp_path / "out" / NOTICE).is_file() == writes


def test_an_error_without_a_signal_stays_that_error():
    def fail() -> None:
        with interruptible() as interruption:
            interruption.defer()
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        fail()


def test_a_signal_is_only_remembered_once_training_goes():
    with interruptible() as interruption:
        interruption.defer()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert name_code(interruption.find_code()) == "SIGTERM"


def test_time_is_over_when_a_step_and_a_checkpoint_no_longer_fit():
    interruption = Interruption()
    interruption.max_seconds = 1000.0
    assert interruption.find_code() == 0
    interruption.note_step(100.0)
    assert interruption.find_code() == 0
    interruption.note_step(950.0)  # 60 seconds for a checkpoint that nobody has seen
    assert interruption.find_code() == MAX_TIME
    interruption.note_save(20.0)
    assert interruption.find_code() == 0
    interruption.note_save(60.0)
    interruption.note_step(1.0)
    assert interruption.find_code() == MAX_TIME
    started = Interruption()
    started.max_seconds = 0.0
    assert started.find_code() == 0  # before the first step


FORK = """
import os, signal, sys, time
from siredon.train.interrupt import interruptible
with interruptible() as interruption:
    interruption.defer()
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGUSR1)
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "a child goes on until its parent is done with it"
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert interruption.find_code() == 0
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    print("still here")
"""


def test_children_end_with_the_run_and_a_second_ctrl_c_quits_unless_torchrun_passed_it_on():
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    for extra, code, out in (({}, 130, ""), ({"TORCHELASTIC_RUN_ID": "1"}, 0, "still here\n")):
        done = subprocess.run(
            [sys.executable, "-c", FORK],
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, out), done.stderr
