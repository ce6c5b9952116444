"""A checkpoint of somebody else runs no code: each of its files is replaced by a pickle that would."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of

from siredon import pipeline
from siredon.errors import CheckpointError
from siredon.train.publish import MANIFEST


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.mark),)


def spoil(folder: Path, name: str, value: Any, *, plain: bool) -> None:
    """Puts a value into a file of a checkpoint, and takes away what would tell that it changed."""
    if plain:
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, folder / name)
    (folder / MANIFEST).unlink()
    facts = json.loads((folder / "siredon.json").read_text())
    (folder / "siredon.json").write_text(json.dumps({**facts, "manifest": False}))


def test_no_file_of_a_checkpoint_can_run_code(write_config: Any, tmp_path: Path):
    keys = {**LORA, "max_steps": 2, "save_steps": 1}
    pipeline.train(config_of(write_config(**keys)))
    whole, mark = tmp_path / "out" / "checkpoint-1", tmp_path / "was run"
    with pytest.raises(FileNotFoundError):  # The bomb is one
        pickle.loads(pickle.dumps(Bomb(mark / "inner")))

    def go_on(name: str, value: Any, *, plain: bool = False, others: tuple[str, ...] = ()) -> None:
        strange = tmp_path / "strange" / "checkpoint-1"
        shutil.rmtree(strange, ignore_errors=True)
        shutil.copytree(whole, strange)
        spoil(strange, name, value, plain=plain)
        for other in others:
            torch.save(value, strange / other)
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        changes = {"output_dir": str(tmp_path / "again"), "resume_from_checkpoint": str(strange)}
        try:
            pipeline.train(config_of(write_config("b.yml", **keys, **changes)))
        finally:
            assert not mark.exists(), name

    refused = "holds more than tensors and plain values, and is not read"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        state = torch.load(whole / name, weights_only=False)
        with pytest.raises(
            CheckpointError, match=rf"checkpoint-1: {name} {refused}: it names posix\.mkdir"
        ) as error:
            go_on(name, {**state, "more": Bomb(mark)})
        assert "weights_only" not in str(error.value)
    with pytest.raises(CheckpointError, match=rf"checkpoint-1: optimizer\.pt or scheduler\.pt {refused}"):
        go_on("optimizer.pt", Bomb(mark), plain=True)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-1: optimizer\.pt or scheduler\.pt cannot be restored"
    ):
        go_on("optimizer.pt", {"state": {}})
    # Read only where there are no safetensors beside it, and by nobody
    with pytest.raises(
        CheckpointError, match=rf"checkpoint-1: pytorch_model\.bin {refused}: it names posix\.mkdir"
    ):
        go_on("pytorch_model.bin", Bomb(mark))
    go_on("training_args.bin", Bomb(mark), others=("adapter_model.bin",))
