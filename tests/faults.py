"""Runs that are killed, interrupted and deprived of their disk at random moments, and what becomes of them.

    python -m tests.faults kill 50        SIGKILL while preparing, training, saving or evaluating; then started again
    python -m tests.faults term 20        SIGTERM: a whole checkpoint each time, and status 75
    python -m tests.faults odd            a process that fetches batches is killed, a disk that fails, a clock that
                                          jumps, weights that are cut off, a cache whose bytes are changed
    python -m tests.faults ranks 4        one of two processes that train together is killed
    python -m tests.faults rights         the right to write into the output folder is lost midway
    python -m tests.faults disk           a small disk that fills up, and one that can no longer be written; mounting
                                          needs rights: `unshare -rm python -m tests.faults disk`

Each trial is a process of its own with the command `siredon train`, on a tiny model on the CPU.  What it comes to is
held against a run that nothing happened to: weights, optimizer, random numbers and logged lines, bit for bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from tests.conftest import ROOT, build_model, build_tokenizer
from tests.runs.test_watching import same, untimed

from siredon.cli.app import main as run_command
from siredon.data.templates.chatml import TEMPLATE
from siredon.train.publish import find_fault, list_checkpoints

#: Function -> what a run does in it; the innermost on the stack counts.
DOING = {
    "prepare_data": "preparing",
    "training_step": "training",
    "_run_epoch": "training",
    "_save_checkpoint": "saving",
    "finish_run": "saving",
    "evaluate": "evaluating",
}
RESUMABLE = 75


def show(line: str) -> None:
    """A line on the screen, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


_KEYS: dict[str, Any] = {
    "datasets": [{"path": "rows.jsonl", "type": "chat_template"}],
    "sequence_len": 256,
    "val_set_size": 4,
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.2,
    "lora_target_linear": True,
    "sample_packing": True,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_epochs": 3,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "bf16": False,
    "logging_steps": 1,
    "eval_steps": 2,
    "save_steps": 2,
    "save_total_limit": 2,
    "auto_resume_from_checkpoints": True,
}


@dataclass(frozen=True)
class Moment:
    """When something happens to a run.

    Args:
        doing: What the run does then.
        entry: How often it has begun to do so before.
        seconds: Time since it began.
    """

    doing: str
    entry: int
    seconds: float


def write_model_and_rows(folder: Path, num_rows: int) -> None:
    """Puts `model` with a chat template, and `rows.jsonl`, into a folder."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE.source
    build_model(len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:num_rows]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")


class Bench:
    """A folder with a model, rows and a run that nothing happens to.

    Args:
        folder: Where; it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_model_and_rows(folder, 40)
        self.whole = folder / "whole"
        status, said = self.run(self.whole, Recorder(folder / "moments.jsonl"))
        if status != 0:
            raise RuntimeError(said)
        self.moments = [
            Moment(*json.loads(line)) for line in (folder / "moments.jsonl").read_text().splitlines()
        ]

    def write_config(self, out: Path, **more: Any) -> Path:
        """The configuration of a run with a cache of its own, so that each prepares its data."""
        keys = {
            **_KEYS,
            "base_model": str(self.folder / "model"),
            "output_dir": str(out),
            "dataset_prepared_path": str(self.folder / f"prepared-{out.name}"),
            **more,
        }
        path = self.folder / f"{out.name}.yml"
        path.write_text(yaml.safe_dump(keys))
        return path

    def run(
        self,
        out: Path,
        watching: Callable[[], None] | None = None,
        obeys_modes: bool = False,
        **more: Any,
    ) -> tuple[int, str]:
        """`siredon train` in a process of its own.

        Args:
            out: Its output folder.
            watching: Runs in a thread of that process.
            obeys_modes: The modes of files hold for it even if it is root's.
            more: Keys of the configuration.

        Returns:
            Exit status, negative for a signal; and what it said.
        """
        said = self.folder / f"{out.name}.log"
        return run_in_child(self.write_config(out, **more), said, watching, obeys_modes)

    def find_difference(self, out: Path) -> str:
        """What is not as in the run that nothing happened to; empty if all is the same to the bit."""
        if not same(out, self.whole):
            return "weights differ"
        if untimed(out) != untimed(self.whole):
            return "metrics.jsonl differs"
        one, other = (list_checkpoints(folder)[0] for folder in (out, self.whole))
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            states = [torch.load(place / name, weights_only=False) for place in (one, other)]
            if not _equal(*states):
                return f"{name} differs"
        if left := [path.name for path in out.glob(".writing-*")]:
            return f"{left} are left"
        return ""

    def forget(self, out: Path) -> None:
        """Removes a run."""
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(self.folder / f"prepared-{out.name}", ignore_errors=True)


def run_in_child(
    config: Path, said: Path, watching: Callable[[], None] | None, obeys_modes: bool = False
) -> tuple[int, str]:
    """`siredon train` in a process of its own, in the folder of the config.

    Args:
        config: The file.
        said: Where its words go.
        watching: Runs in a thread of that process.
        obeys_modes: The modes of files hold for it even if it is root's.

    Returns:
        Exit status, negative for a signal; and what it said.
    """
    child = os.fork()
    if child == 0:
        if obeys_modes:
            _obey_modes()
        _be_the_run(config, said, watching)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")


def _obey_modes() -> None:
    """Gives up the right of root to pass over the modes of files: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("6I", data.raw))
    words[0] &= ~0b110
    if libc.capset(header, struct.pack("6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


def _be_the_run(config: Path, said: Path, watching: Callable[[], None] | None) -> None:
    """The child: never returns."""
    os.chdir(config.parent)
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    status = 1
    try:
        if watching is not None:
            sys.setswitchinterval(0.0005)
            threading.Thread(target=watching, daemon=True).start()
        sys.argv = ["siredon", "train", str(config)]
        run_command()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the parent reads it
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def find_doing() -> str:
    """What the run does now, by the stack of its first thread."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name in DOING:
            return DOING[frame.f_code.co_name]
        frame = frame.f_back
    return "else"


@dataclass(frozen=True)
class Recorder:
    """Writes down what a run does, and for how long.

    Args:
        path: A line for each stretch.
    """

    path: Path

    def __call__(self) -> None:
        entries: Counter[str] = Counter()
        doing, began = "else", time.monotonic()
        while True:
            now = find_doing()
            if now != doing:
                with self.path.open("a") as file:
                    file.write(json.dumps([doing, entries[doing], time.monotonic() - began]) + "\n")
                entries[doing] += 1
                doing, began = now, time.monotonic()
            time.sleep(0.001)


@dataclass(frozen=True)
class Sender:
    """Sends a signal to the own process at a moment, and says first what the run does then.

    Args:
        moment: When.
        sent: Which.
        path: Where it is said.
    """

    moment: Moment
    sent: signal.Signals
    path: Path

    def __call__(self) -> None:
        entries = 0
        doing = "else"
        while True:
            now = find_doing()
            if now != doing and now == self.moment.doing:
                if entries == self.moment.entry:
                    break
                entries += 1
            doing = now
            time.sleep(0.0005)
        time.sleep(self.moment.seconds)
        self.path.write_text(find_doing())
        os.kill(os.getpid(), self.sent)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool((one == other) if isinstance(one, int | float | str | type(None)) else (one == other).all())


def try_signal(bench: Bench, sent: signal.Signals, number: int, chance: random.Random) -> tuple[str, str]:
    """One trial: a run gets the signal, and is started again until it is finished.

    Returns:
        What it did when the signal came; what is wrong, or nothing.
    """
    out = bench.folder / f"trial-{number}"
    doing = ("preparing", "training", "saving", "evaluating")[number % 4]
    stretch = chance.choice([moment for moment in bench.moments if moment.doing == doing])
    moment = Moment(doing, stretch.entry, chance.random() * stretch.seconds)
    said = bench.folder / "moment.txt"
    said.unlink(missing_ok=True)
    status, text = bench.run(out, Sender(moment, sent, said))
    found = said.read_text() if said.is_file() else "nothing: it was over before"
    if found == "else":
        found = f"between two stages, after {doing}"
    fault = _find_fault(sent, status, out, text)
    if not fault and status != 0:
        status, text = bench.run(out)
        fault = f"started again: status {status}: {text[-500:]}" if status != 0 else ""
    fault = fault or bench.find_difference(out)
    if not fault:
        bench.forget(out)
    return found, fault


def _find_fault(sent: signal.Signals, status: int, out: Path, text: str) -> str:
    """What is wrong with a run that got a signal."""
    if sent == signal.SIGKILL:
        return "" if status in (-signal.SIGKILL, 0) else f"status {status}: {text[-500:]}"
    if status not in (RESUMABLE, 0):
        return f"status {status}: {text[-500:]}"
    began = (out / "metrics.jsonl").is_file()
    if status == RESUMABLE and began and list(out.glob("checkpoint-*")):
        return find_fault(list_checkpoints(out)[0], by_hash=True)
    return ""


def report_trials(bench: Bench, sent: signal.Signals, count: int) -> int:
    """Makes the trials, and says what came of them; how many went wrong."""
    chance = random.Random(0)
    moments: Counter[str] = Counter()
    faults = 0
    began = time.monotonic()
    for number in range(count):
        found, fault = try_signal(bench, sent, number, chance)
        moments[found] += 1
        faults += bool(fault)
        show(f"{number + 1:3} of {count}  while {found:11}  {fault or 'goes on to the same bits'}")
    show(
        f"\n{sent.name} at {count} moments: " + ", ".join(f"{n} while {what}" for what, n in moments.items())
    )
    show(f"{count - faults} of {count} runs came to the same bits; {time.monotonic() - began:.0f} s")
    return faults


@dataclass(frozen=True)
class Spoiler:
    """Does something once a checkpoint is there.

    Args:
        out: Output folder of the run.
        spoil: What.
        checkpoint: Name of the checkpoint.
    """

    out: Path
    spoil: Callable[[], None]
    checkpoint: str = "checkpoint-4"

    def __call__(self) -> None:
        while not (self.out / self.checkpoint).is_dir():
            time.sleep(0.0005)
        self.spoil()


def mount(place: Path, options: str) -> None:
    """A file system in memory; with `remount` a change of one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)


def report_disk(bench: Bench) -> int:
    """A disk that is too small, one that fills up, and one that is made read-only; how many runs went wrong."""
    place = bench.folder / "small"
    place.mkdir()
    faults = 0
    out = place / "out"

    def fill() -> None:
        with contextlib.suppress(OSError), (place / "neighbour").open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    cases: tuple[tuple[str, str, Callable[[], None] | None, Callable[[], None]], ...] = (
        ("too small from the start", "size=200k", None, lambda: mount(place, "remount,size=64m")),
        ("filled by a neighbour", "size=8m", fill, lambda: (place / "neighbour").unlink(missing_ok=True)),
        (
            "read-only after checkpoint 4",
            "size=64m",
            lambda: mount(place, "remount,ro"),
            lambda: mount(place, "remount,rw"),
        ),
    )
    for name, options, spoil, mend in cases:
        mount(place, options)
        try:
            status, text = bench.run(out, Spoiler(out, spoil) if spoil else None)
            kept = [path.name for path in list_checkpoints(out) if not find_fault(path, by_hash=True)]
            show(f"== disk {name}: status {status}, whole checkpoints {kept}\n{text[-900:]}")
            mend()
            again, text = bench.run(out)
            fault = f"status {again}: {text[-500:]}" if again else bench.find_difference(out)
            if status != 1 or "Traceback" in text:
                fault = fault or "it did not end with an error"
            show(f"-- with room again: {fault or 'goes on to the same bits'}\n")
            faults += bool(fault)
        finally:
            subprocess.run(["umount", str(place)], check=True)
            bench.forget(out)
    return faults


def _kill_child() -> None:
    """Kills the next process that this one starts."""
    me = os.getpid()
    while True:
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                number, parent = int(status.parent.name), int(status.read_text().rsplit(")", 1)[1].split()[1])
                if parent == me:
                    os.kill(number, signal.SIGKILL)
                    return


def _fail_disk() -> None:
    """From now on nothing reaches the disk."""

    def fail(number: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.fsync = fail


def _jump() -> None:
    """The clock goes a day back."""
    true = time.time
    time.time = lambda: true() - 86_400


def report_odd(bench: Bench) -> int:
    """Faults that are neither signals nor a full disk; how many runs went wrong."""
    faults = 0

    def tell(name: str, text: str, fault: str) -> None:
        nonlocal faults
        faults += bool(fault)
        lines = [line for line in text.splitlines() if line.startswith(("error", "warning", "  fix"))]
        show("\n".join([f"== {name}: {fault or 'as it should be'}", *lines]))

    cases: tuple[tuple[str, Callable[[], None], int, dict[str, Any]], ...] = (
        (
            "a fetching process is killed",
            _kill_child,
            1,
            {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1},
        ),
        ("the disk fails", _fail_disk, 1, {}),
        ("the clock goes a day back", _jump, 0, {}),
    )
    for name, spoil, wanted, keys in cases:
        out = bench.folder / f"odd-{name.split()[1]}"
        status, text = bench.run(out, Spoiler(out, spoil, "checkpoint-2" if keys else "checkpoint-4"), **keys)
        fault = f"status {status}: {text[-1500:]}" if status != wanted or "Traceback" in text else ""
        if status != 0 and not fault:
            again, said = bench.run(out, **keys)
            fault = f"status {again}: {said[-500:]}" if again else ""
        tell(name, text, fault or bench.find_difference(out))
        bench.forget(out)
    weights = bench.folder / "model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    out = bench.folder / "odd-weights"
    status, text = bench.run(out)
    weights.write_bytes(whole)
    tell("weights are cut off", text, text[-1500:] if status != 1 or "Traceback" in text else "")
    bench.forget(out)
    status, text = bench.run(out)
    for path in sorted((bench.folder / "prepared-odd-weights").rglob("*.npy"))[:1]:
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 255
        path.write_bytes(raw)
    shutil.rmtree(out)
    status, text = bench.run(out)
    tell(
        "a byte of the cache is changed",
        text,
        f"{status}: {text[-1500:]}" if status else bench.find_difference(out),
    )
    return faults


def report_ranks(bench: Bench, count: int) -> int:
    """One of two ranks is killed at a random moment; how many runs went wrong."""
    chance = random.Random(0)
    whole = bench.folder / "whole-of-two"
    status, said = _train_on_two(bench, whole, lambda ranks: None)
    if status != 0:
        raise RuntimeError(said)
    num_lines = (whole / "metrics.jsonl").read_text().count("\n")
    faults = 0
    for number in range(count):
        out = bench.folder / f"ranks-{number}"
        lines = chance.randrange(num_lines - 2)

        def kill(ranks: list[int], log: Path = out / "metrics.jsonl", lines: int = lines) -> None:
            while not log.is_file() or log.read_text().count("\n") < lines:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.1)
            os.kill(chance.choice(ranks), signal.SIGKILL)

        status, said = _train_on_two(bench, out, kill)
        steps = [path.name for path in list_checkpoints(out)]
        torn = [path.name for path in list_checkpoints(out) if find_fault(path, by_hash=True)]
        fault = f"torn: {torn}" if torn else "" if status else "it was over before"
        if status and not fault:
            again, text = _train_on_two(bench, out, lambda ranks: None)
            fault = f"started again: status {again}: {text[-500:]}" if again else ""
        if not fault and not (same(out, whole) and untimed(out) == untimed(whole)):
            fault = "other bits than the run that nothing happened to"
        faults += bool(fault)
        show(
            f"{number + 1:3} of {count}  status {status}, then with {steps}: {fault or 'goes on to the same bits'}"
        )
        bench.forget(out)
    return faults


def _train_on_two(bench: Bench, out: Path, spoil: Callable[[list[int]], None]) -> tuple[int, str]:
    """`torchrun --nproc-per-node 2` with a run; `spoil` gets the two processes.  Status, and words."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = bench.folder / f"{out.name}.log"
    with said.open("w") as stream:
        run = subprocess.Popen(
            [*command, "-m", "siredon", "train", str(bench.write_config(out))],
            cwd=bench.folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while len(ranks := [int(word) for word in children.read_text().split()]) < 2 and run.poll() is None:
            time.sleep(0.01)
        spoil(ranks)
        status = run.wait(timeout=300)
    return status, said.read_text(errors="replace")


def report_rights(bench: Bench) -> int:
    """The right to write into the output folder is lost after a checkpoint; how many runs went wrong."""
    out = bench.folder / "rights"

    def lose() -> None:
        for path in (out, *out.iterdir()):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o500)

    status, text = bench.run(out, Spoiler(out, lose), obeys_modes=True)
    kept = [path.name for path in list_checkpoints(out) if not find_fault(path, by_hash=True)]
    show(f"== no right to write after checkpoint 4: status {status}, whole checkpoints {kept}\n{text[-900:]}")
    for path in (out, *out.iterdir()):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    again, said = bench.run(out, obeys_modes=True)
    fault = f"status {again}: {said[-500:]}" if again else bench.find_difference(out)
    if status != 1 or "Traceback" in text:
        fault = fault or "it did not end with an error"
    show(f"-- with the right again: {fault or 'goes on to the same bits'}")
    return int(bool(fault))


def main(words: list[str]) -> int:
    """Runs the trials that are named."""
    kind, count = words[0], int(words[1]) if len(words) > 1 else 4
    with tempfile.TemporaryDirectory(prefix="siredon-faults-") as folder:
        bench = Bench(Path(folder))
        if kind == "disk":
            return report_disk(bench)
        if kind == "odd":
            return report_odd(bench)
        if kind == "ranks":
            return report_ranks(bench, count)
        if kind == "rights":
            return report_rights(bench)
        return report_trials(bench, {"kill": signal.SIGKILL, "term": signal.SIGTERM}[kind], count)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
