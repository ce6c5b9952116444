"""Runs over pairs of answers, for tests of what becomes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.runs.test_train import config_of, metrics_of

from siredon import pipeline


def pair_writer(write_config: Any, folder: Path) -> Callable[..., Path]:
    """Writes a config over 24 pairs, of which the better answer says yes; keyword arguments change keys."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"Is {number} {'more' * (number % 5)} than it was?"}],
            "chosen": f"Yes, {number} is{' very' * (number % 4)} good.",
            "rejected": f"No{', no' * (number % 3)}.",
        }
        for number in range(24)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str = "config", **changes: Any) -> Path:
        keys = {
            "rl": "dpo",
            "datasets": [{"path": str(path), "type": "chat_template.default"}],
            "gradient_accumulation_steps": 4,
            "max_steps": 3,
            "save_strategy": "no",
            "output_dir": str(folder / name),
        }
        found: Path = write_config(f"{name}.yml", **{**keys, **changes})
        return found

    return write


def move_model(source: Path, folder: Path) -> Path:
    """A copy of a model, whose weights have moved."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    moved = {name: value + 0.02 * torch.randn_like(value) for name, value in weights.items()}
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    return folder


def cut_short(folder: Path, *, step: int) -> Path:
    """A copy of the run in `whole` as it was after a step, named `cut`, beside it."""
    cut = folder / "cut"
    shutil.copytree(folder / "whole", cut, symlinks=True)
    for path in cut.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)
    for path in cut.glob("*model.safetensors"):
        path.unlink()
    return cut


def train(path: Path) -> list[dict[str, Any]]:
    """Trains, and gives what was logged."""
    config = config_of(path)
    pipeline.train(config)
    return metrics_of(config.checkpoint.output_folder)
