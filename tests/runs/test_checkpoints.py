"""Checkpoints that cannot be torn: what is in them, what a kill, a full disk or a flipped byte comes to."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, weights_of

from siredon import pipeline
from siredon.errors import CheckpointError
from siredon.train.checkpoint import find_flaw
from siredon.train.publish import MANIFEST, clear_drafts, find_fault

# A copy of a process whose stacks are to be shown later waits for ever when it asks for that itself: no watch here
KEYS = {**LORA, "max_steps": 3, "save_steps": 1, "lora_dropout": 0.1, "stall_timeout": 0}
WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink"}
DIED, SURVIVED, WRONG = 9, 7, 3


def names_of(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("checkpoint-*"))


def hashes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def same(one: Path, two: Path) -> bool:
    first, second = weights_of(one), weights_of(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run_apart(work: Callable[[], None]) -> tuple[int, str]:
    """Runs something in a copy of this process: its exit status, and what it said."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = SURVIVED
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (told by the exit status)
            status = WRONG
            sys.stderr.write(str(error) if isinstance(error, CheckpointError) else traceback.format_exc())
        sys.stderr.flush()
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


class KillEverywhere:
    """Dies at the k-th write of the second save, for all k, each time in a process of its own.

    An audit hook sees files that Python opens, makes, renames and deletes; `os.fsync` is counted by its own.
    """

    def __init__(self, out: Path, kept: Path) -> None:
        self.out = out
        self.kept = kept
        self.count = 0
        self.last = 0
        self.is_child = False
        self.is_done = False

    def start(self) -> None:
        sync = os.fsync

        def counted(handle: int) -> None:
            self.see("os.fsync", ("",))
            sync(handle)

        os.fsync = counted
        sys.addaudithook(self.see)

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_done or event not in WRITES | {"os.fsync"}:
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if self.is_child:
            self.count += 1
            if self.count == self.last:
                os._exit(DIED)
        elif ".writing-checkpoint-2" in str(args[0]):
            self.explore()

    def explore(self) -> None:
        self.is_done = True
        while True:
            self.last += 1
            child = os.fork()
            if child == 0:
                self.is_child, self.is_done = True, False
                return
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status != DIED:
                assert status == SURVIVED, status
                (self.out / "deaths").write_text(str(self.last - 1))
                return
            self.check()

    def check(self) -> None:
        """The checkpoint before is whole, and the new ones are whole or not there."""
        whole = names_of(self.out)
        assert whole == ["checkpoint-1", "checkpoint-2", "checkpoint-3"][: len(whole) or 1], (
            self.last,
            whole,
        )
        for name in whole:
            assert not find_flaw(self.out / name), (self.last, name)
        assert not find_fault((self.out / "latest").resolve()), self.last
        if self.last % 9 == 0:
            shutil.copytree(self.out, self.kept / f"{len(whole)}-{self.last}", symlinks=True)
        with redirect_stderr(io.StringIO()):
            clear_drafts(self.out)
        for name in whole[1:]:
            shutil.rmtree(self.out / name)
        (self.out / "latest").unlink()
        (self.out / "latest").symlink_to("checkpoint-1")


def test_a_kill_at_any_write_of_a_save_leaves_a_checkpoint_to_go_on_from(
    write_config: Any, tmp_path: Path, capsys: Any
):
    out, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    config = config_of(write_config(**KEYS))

    def train() -> None:
        KillEverywhere(out, kept).start()
        pipeline.train(config)

    status, said = run_apart(train)
    assert status == SURVIVED, said
    deaths = int((out / "deaths").read_text())
    assert deaths > 40
    states = sorted(kept.iterdir())
    assert {path.name[0] for path in states} >= {"1", "2"}
    for state in (states[0], states[len(states) // 2], states[-1]):
        again = config_of(
            write_config("b.yml", **KEYS, output_dir=str(state), auto_resume_from_checkpoints=True)
        )
        pipeline.train(again)
        assert same(state, out)
        assert not list(state.glob(".*"))
    assert "was never finished: deleted" in capsys.readouterr().err


def test_a_disk_that_is_full_in_a_save_keeps_the_checkpoint_before_and_ends_with_numbers(
    write_config: Any, tmp_path: Path
):
    out = tmp_path / "out"
    for name, where, most in (("front", "os.mkdir", 50_000), ("back", "os.mkdir", 100_000)):
        shutil.rmtree(out, ignore_errors=True)
        config = config_of(write_config(**KEYS, save_in_background=name == "back"))

        def train(config: Any = config, where: str = where, most: int = most) -> None:
            def fill(event: str, args: tuple[Any, ...]) -> None:
                if event == where and ".writing-checkpoint-2" in str(args[0]):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

            sys.addaudithook(fill)
            pipeline.train(config)

        status, said = run_apart(train)
        assert status == WRONG
        assert "Traceback" not in said
        assert "checkpoint-2 could not be written: " in said
        assert "of room" in said
        assert "auto_resume_from_checkpoints" in said
        assert names_of(out) == ["checkpoint-1"]
        assert not find_flaw(out / "checkpoint-1")
        assert not list(out.glob(".writing-*"))


def test_what_is_torn_changed_or_foreign_is_passed_over_with_a_line(
    write_config: Any, tmp_path: Path, capsys: Any
):
    out = tmp_path / "out"
    keys = {**KEYS, "max_steps": 6, "save_total_limit": 9}
    pipeline.train(config_of(write_config("a.yml", **keys)))
    whole = weights_of(out)
    state = out / "checkpoint-6" / "optimizer.pt"
    changed = bytearray(state.read_bytes())
    changed[len(changed) // 2] ^= 1
    state.write_bytes(changed)
    cut = out / "checkpoint-5" / "adapter_model.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    (out / "checkpoint-4" / "rng_state.pth").unlink()
    (out / "checkpoint-3" / MANIFEST).unlink()
    shutil.copytree(out / "checkpoint-2", out / "checkpoint-7")
    (out / "checkpoint-7" / MANIFEST).write_text("{}")
    (out / "checkpoint-8").mkdir()
    (out / "checkpoint-8" / "model.safetensors").write_bytes(b"of somebody else")
    (out / ".writing-checkpoint-9").mkdir()
    capsys.readouterr()
    pipeline.train(config_of(write_config("b.yml", **keys, auto_resume_from_checkpoints=True)))
    said = capsys.readouterr().err
    for number, reason in (
        (8, "manifest.json is missing"),
        (7, "manifest.json cannot be read"),
        (6, "optimizer.pt has other bytes than were written"),
        (5, "adapter_model.safetensors has "),
        (4, "rng_state.pth is missing"),
        (3, "manifest.json is missing"),
    ):
        assert f"passed over {out}/checkpoint-{number}: {reason}" in said
    assert f"going on from {out}/checkpoint-2\n" in said
    assert f"{out}/.writing-checkpoint-9 was never finished: deleted" in said
    assert all(torch.equal(whole[name], value) for name, value in weights_of(out).items())
    assert not find_flaw(out / "checkpoint-6")
    assert (out / "latest").readlink() == Path("checkpoint-6")
    # Named, a torn one is refused
    (out / "checkpoint-6" / "scheduler.pt").unlink()
    named = {"resume_from_checkpoint": str(out / "latest")}
    with pytest.raises(CheckpointError, match=r"checkpoint-6 is not whole: scheduler.pt is missing"):
        pipeline.train(config_of(write_config("c.yml", **keys, **named)))
    # One from before there were manifests is taken, with a warning
    facts = json.loads((out / "checkpoint-2" / "siredon.json").read_text())
    del facts["manifest"]
    (out / "checkpoint-2" / "siredon.json").write_text(json.dumps(facts))
    (out / "checkpoint-2" / MANIFEST).unlink()
    named = {"resume_from_checkpoint": str(out / "checkpoint-2")}
    pipeline.train(config_of(write_config("d.yml", **{**keys, "max_steps": 3}, **named)))
    assert "wrote no manifest" in capsys.readouterr().err


def test_the_best_and_the_newest_stay_and_links_lead_to_them(write_config: Any, tmp_path: Path):
    # The rate rises to where nothing is learned: the first validation is the best
    keys = {**LORA, "val_set_size": 4, "eval_steps": 3, "save_steps": 2, "max_steps": 8, "learning_rate": 0.3}
    keys |= {"load_best_model_at_end": True, "save_total_limit": 1, "lr_scheduler": "constant_with_warmup"}
    pipeline.train(config_of(write_config(**keys, warmup_steps=12)))
    out = tmp_path / "out"
    assert (out / "best").readlink() == Path("checkpoint-3")
    assert names_of(out) == ["checkpoint-3", "checkpoint-8"]
    assert (out / "latest").readlink() == Path("checkpoint-8")
    assert same(out, out / "best")
    state = json.loads((out / "latest" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(out / "checkpoint-3")


def test_a_run_killed_while_its_result_is_moved_is_finished_when_started_again(
    write_config: Any, tmp_path: Path, capsys: Any
):
    out = tmp_path / "out"
    config = config_of(write_config(**KEYS, auto_resume_from_checkpoints=True))

    def train() -> None:
        def die(event: str, args: tuple[Any, ...]) -> None:
            if event == "os.rename" and str(args[0]) == str(out / ".result" / "adapter_model.safetensors"):
                os._exit(DIED)

        sys.addaudithook(die)
        pipeline.train(config)

    assert run_apart(train)[0] == DIED
    assert not (out / "adapter_model.safetensors").exists()
    assert (out / "tokenizer.json").is_file()
    pipeline.train(config)
    assert "nothing to do" in capsys.readouterr().out
    assert same(out, out / "checkpoint-3")
    assert not list(out.glob(".*"))
    record = json.loads((out / "run.json").read_text())
    assert record["finished"]["num_steps"] == 3
    # Killed before the result was written, it is made of the checkpoint
    for name in ("adapter_model.safetensors", "generation_config.json", "loss.png"):
        (out / name).unlink()
    del record["finished"]
    (out / "run.json").write_text(json.dumps(record))
    pipeline.train(config)
    assert same(out, out / "checkpoint-3")
    assert json.loads((out / "generation_config.json").read_text())["use_cache"] is True
    assert (out / "loss.png").is_file()
    assert json.loads((out / "run.json").read_text())["finished"]["num_tokens"] > 0


def test_a_checkpoint_of_an_adapter_has_the_adapter_and_not_the_base(write_config: Any, tmp_path: Path):
    pipeline.train(config_of(write_config(**LORA, max_steps=1)))
    folder = tmp_path / "out" / "checkpoint-1"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "manifest.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "siredon.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "training_args.bin",
    }
    names = weights_of(folder)
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    num_trained = sum(tensor.numel() for tensor in names.values())
    assert (folder / "adapter_model.safetensors").stat().st_size < 4 * num_trained + 8_000
    # Two means of each trained value, and little more
    assert (folder / "optimizer.pt").stat().st_size < 8 * num_trained + 40_000


KINDS = {
    "full": {},
    "lora": {**LORA, "lora_modules_to_save": ["embed_tokens"]},
    "dora": {**LORA, "peft_use_dora": True},
    "vera": {"adapter": "vera", "lora_target_modules": ["q_proj", "v_proj"], "peft": {"r": 4}},
    "averaged": {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_background_save_writes_the_bytes_of_a_foreground_save(
    write_config: Any, tmp_path: Path, kind: str
):
    for name in ("front", "back"):
        keys = {"save_in_background": name == "back", "output_dir": str(tmp_path / name)}
        pipeline.train(config_of(write_config(**keys, **KINDS[kind], max_steps=3, save_steps=1)))
        assert names_of(tmp_path / name) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    for step in (1, 2, 3):
        front, back = (hashes_of(tmp_path / name / f"checkpoint-{step}") for name in ("front", "back"))
        assert front.keys() == back.keys()
        changed = {name for name in front if front[name] != back[name]}
        # The log has times in it, and the arguments the folder
        assert changed <= {"trainer_state.json", "training_args.bin", MANIFEST}, changed
    assert same(tmp_path / "front", tmp_path / "back")


@pytest.mark.parametrize(
    ("folder", "reason"), [("/dev/null/out", "Not a directory"), ("/proc/siredon/out", "")]
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(
    write_config: Any, folder: str, reason: str
):
    config = config_of(write_config(output_dir=folder, base_model="no/such-model"))
    with pytest.raises(CheckpointError, match=rf"output_dir: {folder} cannot be written: {reason}"):
        pipeline.train(config)
