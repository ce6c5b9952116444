"""Processes of a sweep: what they wrote, how they end, and that none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from siredon.errors import Interrupted
from siredon.sweep import run
from siredon.sweep.run import hold_folder
from siredon.train.interrupt import interruptible


@pytest.fixture
def lock(tmp_path: Path):
    with hold_folder(tmp_path / "sweep") as lock:
        yield lock


def read(tmp_path: Path, *rows: dict[str, Any], **facts: Any) -> Any:
    (tmp_path / "run.json").write_text(json.dumps({"config": {"checkpoint": {"output_dir": "a"}}, **facts}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run._read_result(tmp_path)


# What a run wrote


def test_the_last_validation_loss_counts(tmp_path: Path):
    result = read(
        tmp_path,
        {"step": 0, "eval_loss": 9.0},
        {"step": 2, "loss": 3.0, "tokens_per_second": 10.0},
        {"step": 2, "eval_loss": 2.5},
        {"step": 4, "loss": 1.0, "tokens_per_second": 30.0},
        {"step": 4, "eval_loss": 2.0},
        {"step": 5, "loss": 0.5, "tokens_per_second": 20.0},
        finished={"seconds": 6.0},
    )
    assert (result.loss, result.loss_name, result.steps) == (2.0, "validation loss", 5)
    assert (result.tokens_per_second, result.seconds) == (20.0, 6.0)


def test_the_validation_of_the_base_model_is_no_result(tmp_path: Path):
    result = read(tmp_path, {"step": 0, "eval_loss": 9.0}, {"step": 2, "loss": 3.0})
    assert (result.loss, result.loss_name, result.seconds) == (3.0, "training loss", None)


def test_a_run_that_wrote_nothing_whole_has_no_result(tmp_path: Path):
    assert run._read_result(tmp_path) is None
    read(tmp_path)
    (tmp_path / "run.json").write_text('{"config":')
    assert run._read_result(tmp_path) is None


# How a run ends


def test_the_exit_status_and_the_end_of_stderr_are_known_and_stderr_passes_through(
    lock: int, capsys: pytest.CaptureFixture[str]
):
    code = "import sys; sys.stderr.write('x' * 50000 + '\\nfirst\\nä last\\n'); sys.exit(3)"
    status, tail = run._run([sys.executable, "-c", code], lock)
    assert status == 3
    assert tail.endswith("first\nä last\n")
    assert len(capsys.readouterr().err) == 50000 + len("\nfirst\nä last\n")


@pytest.mark.parametrize(
    ("code", "tail", "line"),
    [
        (1, "step 1\nerror: no rows\n  fix: add some\n", "error: no rows"),
        (1, "a.yml:1:2: error SD0003: unknown\n    1 | x\n", "a.yml:1:2: error SD0003: unknown"),
        (1, "Traceback\n  File x\nValueError: bad\n\nlater\n", "ValueError: bad"),
        (
            1,
            "torch.cuda.OutOfMemoryError: CUDA out of memory.\n",
            "torch.cuda.OutOfMemoryError: CUDA out of memory.",
        ),
        (7, "step 1\nlast\n\n", "last"),
        (7, "", "exit status 7"),
        (-9, "step 1\n", "stopped by signal 9 (Killed)"),
    ],
)
def test_the_last_error_line_is_found(code: int, tail: str, line: str):
    assert run._last_error(code, tail) == line


# No run is left behind


def child_of(lock: int) -> int:
    return int(os.pread(lock, 20, 0))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SAVING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (sys.stderr.write("saved" * 50_000), sys.exit(75)))
sys.stderr.write("ready")
sys.stderr.flush()
time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_the_sweep_ends_its_run_once_it_has_saved(
    lock: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sent: signal.Signals
):
    write = sys.stderr.write

    def interrupt(text: str) -> int:
        if text == "ready":
            signal.raise_signal(sent)
        return write(text)

    monkeypatch.setattr(sys.stderr, "write", interrupt)
    with interruptible(), pytest.raises(Interrupted) as caught:
        run._run([sys.executable, "-c", SAVING], lock)
    assert caught.value.by == sent.name
    assert not is_alive(child_of(lock))
    assert "saved" * 50_000 in capsys.readouterr().err


HOLD = """
import os, sys
from pathlib import Path
from siredon.sweep import run
with run.hold_folder(Path(sys.argv[1])) as lock:
    run._run([sys.executable, "-c", sys.argv[2]], lock)
"""


def test_a_run_that_a_killed_sweep_left_behind_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, done = tmp_path / "sweep", tmp_path / "done"
    work = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(done)!r}).touch()"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), work], stderr=subprocess.DEVNULL)
    while not (folder / "sweep.lock").is_file() or not (folder / "sweep.lock").read_text():
        assert holder.poll() is None
        time.sleep(0.01)
    holder.kill()
    holder.wait()
    assert not done.exists()
    with hold_folder(folder):
        assert done.exists()
    assert "left its run behind (process " in capsys.readouterr().err


def test_a_folder_of_another_run_is_moved_aside_and_nothing_is_lost(tmp_path: Path):
    for text in ("first", "second"):
        folder = tmp_path / "0001-a"
        folder.mkdir()
        (folder / "weights").write_text(text)
        run._set_aside(folder)
    kept = {path.name: (path / "weights").read_text() for path in (tmp_path / "earlier").iterdir()}
    assert kept == {"0001-a": "first", "0001-a-2": "second"}
