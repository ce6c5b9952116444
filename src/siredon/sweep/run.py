"""Trials one after another, each a `siredon train` of its own process."""

from __future__ import annotations

import codecs
import fcntl
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from siredon.config.diagnostics import Diagnostic, Place, show_text
from siredon.config.layers import Setting
from siredon.distributed.ranks import num_ranks
from siredon.errors import Interrupted, SiredonError
from siredon.log import note
from siredon.sweep.check import Checker, ReadyTrial, digest_config
from siredon.sweep.search import Search
from siredon.sweep.table import TRAINING, VALIDATION, Book, Record
from siredon.sweep.trial import Trial, show_values, to_json, to_words
from siredon.train.interrupt import RESUME_ME, interruptible

#: The error of a run that was stopped by `on_bad_step`: it would stop there again.
_BAD_STEP = re.compile(r"error: step [\d,]+ is bad: ")
_ERROR = re.compile(r"error: |\S+:\d+:\d+: error SD\d{4}: |[\w.]*(Error|Exception|Interrupt)\b")
#: Characters of a run's last words that are looked through for an error.
_TAIL = 20_000


def check_single_process() -> None:
    """A sweep starts its runs itself.

    Raises:
        SiredonError: torchrun started several processes.
    """
    if num_ranks() > 1:
        raise SiredonError(
            f"--sweep: a sweep is one process, and torchrun started {num_ranks()}",
            "Start it without torchrun: python -m siredon train CONFIG --sweep FILE. Each run is one process.",
        )


@contextmanager
def hold_folder(folder: Path) -> Iterator[int]:
    """Makes the folder, and lets one sweep at a time work in it.

    The runs inherit the lock.  So where a sweep was killed and its run was not, the next sweep waits for that run,
    and does not train in the same folder beside it.

    Yields:
        The file descriptor that is locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sweep.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            note(f"waiting: another sweep works in {folder}, or left its run behind (process {file.read()})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def run_trials(search: Search, checker: Checker, book: Book, lock: int) -> None:
    """Runs what has not been run before, and writes down how it went.

    Args:
        search: What is asked for trials.
        checker: Checks those that were not known beforehand.
        book: The records; a trial that is done is not run again, whatever its number was.
        lock: From `hold_folder`.
    """
    asked = 0
    with interruptible():
        while (trial := search.ask()) is not None:
            asked += 1
            ready, problems = checker.check(trial)
            head = f"trial {asked} of {search.num_trials}: {'  '.join(show_values(trial.values))}"
            if ready is None:
                record = _refuse(trial, problems)
                note(f"{head}\n{show_text(problems)}")
                book.put(record)
            elif (again := book.find(ready.digest)) is not None:
                note(f"{head}: the same as trial {again.number}")
                record = again
            else:
                record = _settle(ready, checker, book, head, lock)
            search.tell(_loss_of(record))
    book.close()


def _settle(ready: ReadyTrial, checker: Checker, book: Book, head: str, lock: int) -> Record:
    """The record of a trial that is done, or of the run that is made now."""
    trial = ready.trial
    known = book.recall(ready.digest)
    name = Path(known.folder).name if known else ""
    folder = book.folder / (name if name and (book.folder / name).is_dir() else trial.folder_name)
    record = Record(trial.number, trial.values, "unfinished", str(folder), ready.digest)
    if known and known.is_done and folder.is_dir():
        note(f"{head}: {known.status} before")
        known = replace(known, number=trial.number, settings=trial.values, folder=str(folder))
        book.put(known)
        return known
    result = _read_result(folder)
    if result is not None and result.digest != ready.digest:
        _set_aside(folder)
        result = None
    if result is not None and result.seconds is not None:
        # Killed between the end of a run and its record
        note(f"{head}: finished before")
        done = _finish(record, result, result.seconds)
        book.put(done)
        return done
    note(f"{head}\n{folder}")
    book.put(record)
    command = [sys.executable, "-m", "siredon", "train", checker.path]
    nowhere = Place(1, 1)
    own = Setting(("output_dir",), str(folder), nowhere, nowhere)
    command += [
        *to_words([*checker.layer.settings, *trial.settings, own]),
        "auto_resume_from_checkpoints=true",
    ]
    began = time.perf_counter()
    code, tail = _run(command, lock)
    if code == RESUME_ME:
        raise Interrupted(f"trial {trial.number}, which was asked to end")
    record = _judge(record, code, tail, time.perf_counter() - began)
    book.put(record)
    note(f"trial {trial.number} {record.status}{f': {record.error}' if record.error else ''}")
    return record


def _refuse(trial: Trial, problems: tuple[Diagnostic, ...]) -> Record:
    """A trial that was not known beforehand, and whose configuration has an error."""
    error = next(problem for problem in problems if problem.severity == "error")
    line = show_text([error]).partition("\n")[0]
    return Record(trial.number, trial.values, "failed", "", f"wrong: {to_json(trial.values)}", error=line)


def _judge(record: Record, code: int, tail: str, seconds: float) -> Record:
    """The record of a run that has ended."""
    if code:
        minutes = round(seconds / 60, 2)
        error = _last_error(code, tail)
        status: Literal["diverged", "failed"] = "diverged" if _BAD_STEP.match(error) else "failed"
        return replace(record, status=status, exit_code=code, minutes=minutes, error=error)
    result = _read_result(Path(record.folder))
    if result is None or result.digest != record.config:
        error = "error: the configuration was changed while the sweep ran: start it again"
        return replace(record, status="failed", exit_code=code, error=error)
    return _finish(record, result, seconds)


def _finish(record: Record, result: _Result, seconds: float) -> Record:
    is_finite = result.loss is not None and math.isfinite(result.loss)
    return replace(
        record,
        status="finished" if is_finite else "diverged",
        metric=result.loss if is_finite else None,
        metric_name=result.loss_name,
        steps=result.steps,
        tokens_per_second=result.tokens_per_second,
        minutes=round(seconds / 60, 2),
        exit_code=0,
    )


def _loss_of(record: Record) -> float | None:
    """What a search is told: infinity for a run that diverged, so that it keeps away from there."""
    return math.inf if record.status == "diverged" else record.metric


# What a run wrote


@dataclass(frozen=True)
class _Result:
    """What stands in the folder of a run.

    Args:
        digest: Hash of the configuration that it was started with.
        loss: The last loss; the last validation loss where there is one after a step.
        loss_name: Which of them it is.
        steps: Optimizer steps.
        tokens_per_second: Median of what was logged, which a resume does not change.
        seconds: How long training took; None if the run did not come to its end.
    """

    digest: str
    loss: float | None
    loss_name: str
    steps: int
    tokens_per_second: float | None
    seconds: float | None


def _read_result(folder: Path) -> _Result | None:
    """What a run wrote; None if there is no run, or its record was cut off."""
    try:
        record = json.loads((folder / "run.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return None
    # Before the first step every run has the validation loss of the base model
    rows = [row for row in rows if row["step"] > 0]
    validation = [row["eval_loss"] for row in rows if "eval_loss" in row]
    training = [row["loss"] for row in rows if "loss" in row]
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    losses = validation or training
    return _Result(
        digest_config(record["config"]),
        losses[-1] if losses else None,
        VALIDATION if validation else TRAINING,
        max((row["step"] for row in rows), default=0),
        statistics.median(speeds) if speeds else None,
        record.get("finished", {}).get("seconds"),
    )


def _set_aside(folder: Path) -> None:
    """Moves the folder of a run with another configuration into `earlier/`."""
    aside = folder.parent / "earlier" / folder.name
    number = 1
    while aside.exists():
        number += 1
        aside = folder.parent / "earlier" / f"{folder.name}-{number}"
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    note(f"the run of another configuration in {folder} is now in {aside}")


# Processes


def _run(command: list[str], lock: int) -> tuple[int, str]:
    """Runs a command to its end; its stderr passes through here.

    Returns:
        Its exit status, and the end of its stderr.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(lock,))
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(child.pid).encode(), 0)
    assert child.stderr is not None
    try:
        tail = _pass_on(child.stderr.fileno())
        return child.wait(), tail
    except BaseException:
        # It finishes its step and saves, and must be able to say so
        child.terminate()
        _pass_on(child.stderr.fileno())
        child.wait()
        raise
    finally:
        child.stderr.close()


def _pass_on(stream: int) -> str:
    """Copies a pipe to stderr as it comes, and returns the end of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tail = ""
    while chunk := os.read(stream, 65536):
        text = decoder.decode(chunk)
        sys.stderr.write(text)
        sys.stderr.flush()
        tail = (tail + text)[-_TAIL:]
    return tail


def _last_error(code: int, tail: str) -> str:
    """The last line that looks like an error; else the signal, else the last line."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return errors[-1]
    if code < 0:
        return f"stopped by signal {-code} ({signal.strsignal(-code)})"
    return lines[-1] if lines else f"exit status {code}"
