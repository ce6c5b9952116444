"""Two ranks over gloo take the same steps as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, metrics_of, weights_of

from siredon import pipeline
from siredon.config.load import load_config


def run_on_two_ranks(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "siredon", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train_on_two_ranks(config: Path) -> str:
    return run_on_two_ranks("train", str(config)).stderr


def test_two_ranks_give_the_weights_and_losses_of_one(write_config: Any, tmp_path: Path):
    # 20 training rows of unequal length and 3 for validation, which two ranks cannot share evenly.
    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template", "split": "train[:23]"}
    keys = {
        "datasets": [rows],
        "max_steps": 4,
        "val_set_size": 3,
        "eval_steps": 2,
        "save_strategy": "no",
        "learning_rate": 1e-3,
    }
    one = write_config("one.yml", **keys, gradient_accumulation_steps=4, output_dir=str(tmp_path / "one"))
    two = write_config("two.yml", **keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"))
    config, _ = load_config(str(one))
    pipeline.train(config)
    stderr = train_on_two_ranks(two)
    assert stderr.count("step 4/4  loss") == 1
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    for name in ("loss", "eval_loss", "grad_norm"):
        a = [row[name] for row in first if name in row]
        b = [row[name] for row in second if name in row]
        assert len(a) == len(b)
        assert all(abs(x - y) < 1e-4 * max(1, abs(x)) for x, y in zip(a, b, strict=True)), (name, a, b)
    one_weights, two_weights = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((one_weights[n] - two_weights[n]).abs().max().item() for n in one_weights) < 1e-4
    assert all(torch.isfinite(value).all() for value in two_weights.values())


@pytest.mark.long
@pytest.mark.parametrize("bits", [{"adapter": "qlora", "load_in_4bit": True}, {"load_in_torchao": "int4"}])
def test_two_ranks_train_beside_weights_in_few_bits_as_one_does(
    write_config: Any, tmp_path: Path, bits: dict[str, Any]
):
    keys = {**LORA, **bits, "max_steps": 2, "save_strategy": "no"}
    one = write_config("one.yml", **keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one"))
    two = write_config("two.yml", **keys, gradient_accumulation_steps=1, output_dir=str(tmp_path / "two"))
    pipeline.train(load_config(str(one))[0])
    train_on_two_ranks(two)
    first, second = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4


@pytest.mark.long
def test_an_odd_number_of_rows_is_shared_without_training_on_any_twice(write_config: Any, tmp_path: Path):
    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template", "split": "train[:17]"}
    keys = {
        "datasets": [rows],
        "max_steps": ...,
        "num_epochs": 1,
        "save_strategy": "no",
        "micro_batch_size": 2,
    }
    path = write_config(**keys, gradient_accumulation_steps=1)
    train_on_two_ranks(path)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["finished"]["num_steps"] == 5
    assert record["finished"]["num_tokens"] == record["data"]["counts"][0]["num_tokens"]
