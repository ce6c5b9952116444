"""A tiny model on streamed rows, through the pipeline's own verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline, release
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
    # The lines before the checkpoint come from its own log
    assert rows[1] == rows[0]
    assert rows[0][-1]["epoch"] == 1.0
    state = json.loads((whole / "checkpoint-3" / "stream.json").read_text())
    assert state["first_pack"] + state["used"] == 3 * 2 * 2
    assert sum(state["rows_given"]) == 16 * state["window"]


def test_chats_are_streamed_and_measured_on_rows_of_their_own(write_config: Any, tmp_path: Path, capsys: Any):
    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template"}
    keys = {"streaming": True, "max_steps": 12, "learning_rate": 5e-3, "sample_packing": True}
    config = config_of(write_config(**keys, test_datasets=[{**rows, "split": "train[:4]"}], eval_steps=6))
    pipeline.train(config)
    assert "24 rows, streamed" in capsys.readouterr().err
    found = metrics_of(tmp_path / "out")
    measured = [row["eval_loss"] for row in found if "eval_loss" in row]
    assert len(measured) >= 3
    assert measured[-1] < measured[0]


def test_a_model_of_plain_text_is_asked_for_plain_text(
    write_config: Any, stream_keys: dict[str, Any], capsys: Any
):
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    config = config_of(write_config(**stream_keys))
    pipeline.preprocess(config)
    pipeline.train(config)
    capsys.readouterr()
    prompts = ("some words", "more words")
    release.inference(config, Prompts(prompts, False, False, Sampling(max_new_tokens=4)))
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_a_stream_that_ends_ends_the_run(
    write_config: Any, tmp_path: Path, stream_keys: dict[str, Any], capsys: Any
):
    source = {"path": write_texts(tmp_path, "short", 17), "repeat": False}
    pipeline.train(config_of(write_config(**{**stream_keys, "pretraining_dataset": [source]})))
    # 17 rows are 4 steps of 2 x 2, and one row that is no whole step
    assert [row["step"] for row in metrics_of(tmp_path / "out") if "loss" in row] == [1, 2, 3, 4]
    assert "the stream ended after 4 of 6 steps" in capsys.readouterr().err


@pytest.mark.long
def test_two_ranks_share_a_stream(write_config: Any, tmp_path: Path, stream_keys: dict[str, Any]):
    keys = {**stream_keys, "sample_packing": True, "micro_batch_size": 1, "max_steps": 4, "save_steps": 2}
    one, two, rest = (tmp_path / name for name in ("one", "two", "rest"))
    pipeline.train(
        config_of(write_config("a.yml", **keys, gradient_accumulation_steps=4, output_dir=str(one)))
    )
    shared = {**keys, "gradient_accumulation_steps": 2}
    train_on_two_ranks(write_config("b.yml", **shared, output_dir=str(two)))
    resumed = {"resume_from_checkpoint": str(two / "checkpoint-2"), "output_dir": str(rest)}
    train_on_two_ranks(write_config("c.yml", **shared, **resumed))
    weights = [weights_of(folder) for folder in (one, two, rest)]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-4 for name in weights[0])
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    states = [json.loads((folder / "checkpoint-2" / "stream.json").read_text()) for folder in (one, two)]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    "change",
    [{"streaming_multipack_buffer_size": 8}, {"sequence_len": 32}, {"pretraining_dataset": "one.jsonl"}],
)
def test_going_on_with_another_stream_is_refused(
    write_config: Any,
    tmp_path: Path,
    stream_keys: dict[str, Any],
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    keys = {**stream_keys, "max_steps": 2, "save_steps": 1}
    pipeline.train(config_of(write_config(**keys)))
    changed = {**keys, "max_steps": 3, "auto_resume_from_checkpoints": True, **change}
    with pytest.raises(CheckpointError, match="data: "):
        pipeline.train(config_of(write_config(**changed)))
    (tmp_path / "out" / "checkpoint-2" / "stream.json").unlink()
    named = {**keys, "max_steps": 3, "resume_from_checkpoint": str(tmp_path / "out" / "checkpoint-2")}
    with pytest.raises(CheckpointError, match=r"stream\.json is missing"):
        pipeline.train(config_of(write_config(**named)))
