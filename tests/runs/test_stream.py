"""A tiny model on streamed rows, through the pipeline's own verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.errors import CheckpointError

VALUES = ("loss", "grad_norm", "learning_rate", "epoch", "step")
WAYS = {
    "packed": {"sample_packing": True},
    "packed and open": {"sample_packing": True, "pretrain_multipack_attn": False},
    "joined": {"pretraining_sample_concatenation": True},
    "single": {},
}


def write_texts(folder: Path, name: str, count: int = 60) -> str:
    path = folder / f"{name}.jsonl"
    rows = [
        {"text": f"{name} {number}: " + f"some words of {name} " * (number % 7)} for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def stream_keys(tmp_path: Path) -> dict[str, Any]:
    sources = [
        {"path": write_texts(tmp_path, "one"), "weight": 3},
        {"path": write_texts(tmp_path, "two", 20), "weight": 1},
    ]
    return {
        "datasets": ...,
        "pretraining_dataset": sources,
        "streaming_multipack_buffer_size": 16,
        "sequence_len": 64,
        "max_steps": 6,
        "save_steps": 3,
        "micro_batch_size": 2,
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_stream_equals_the_uninterrupted_one_bit_for_bit(
    write_config: Any, tmp_path: Path, stream_keys: dict[str, Any], way: str
):
    keys = {**stream_keys, **WAYS[way], **LORA, "lora_dropout": 0.2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(whole))))
    rest = {"resume_from_checkpoint": str(whole / "checkpoint-3"), "output_dir": str(parts)}
    pipeline.train(config_of(write_config("b.yml", **keys, **rest)))
    one, two = weights_of(whole), weights_of(parts)
    assert all(torch.equal(one[name], two[name]) for name in one)
    rows = [[{name: row.get(name) for name in VALUES} for row in metrics_of(out)] for out in (whole, parts)]
    assert rows[1] == rows[0][3:]
    assert rows[0][-1]["epoch"] == 1.0
    state = json.loads((whole / "checkpoint-3" / "stream.json").read_text())
    assert state["first_pack"] + state["used"] == 3 * 2 * 2
    assert sum(state["rows_given"]) == 16 * state["window"]
