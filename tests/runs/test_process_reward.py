"""`process_reward_model: true` from YAML to weights: what is learned, ranks, resuming, merging, probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runs.pair_runs import cut_short
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_reward import run_command
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline, release

ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}
RIGHT, WRONG = "It is so.", "It is not."


def answer(number: int) -> dict[str, Any]:
    """Two or three steps, each of which says whether it is right."""
    labels = [bool(number & 1 << place) for place in range(2 + number % 2)]
    steps = [f"{place} {RIGHT if label else WRONG}" for place, label in enumerate(labels)]
    return {"prompt": f"Is {number} more?", "completions": steps, "labels": labels}


@pytest.fixture
def write_steps(write_config: Any, tmp_path: Path) -> Any:
    """Writes a config over 24 answers; keyword arguments change keys."""
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(answer(number)) + "\n" for number in range(24)))

    def write(name: str = "config", **changes: Any) -> Path:
        keys = {
            "process_reward_model": True,
            "datasets": [{"path": str(path), "type": "stepwise_supervised"}],
            "gradient_accumulation_steps": 4,
            "max_steps": 3,
            "save_strategy": "no",
            "output_dir": str(tmp_path / name),
        }
        found: Path = write_config(f"{name}.yml", **{**keys, **changes})
        return found

    return write


def train(path: Path) -> list[dict[str, Any]]:
    config = config_of(path)
    pipeline.train(config)
    return metrics_of(config.checkpoint.output_folder)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_right_and_wrong_steps_are_told_apart(write_steps: Any, tmp_path: Path, capsys: Any, adapter: str):
    """Also by the merged model, and by what `siredon inference` says of new steps."""
    path = write_steps(**ADAPTERS[adapter], val_set_size=8, eval_steps=40, max_steps=40, learning_rate=5e-3)
    after = [row for row in train(path) if "eval_loss" in row][-1]
    assert after["eval_accuracies"] == 1.0
    assert (after["eval_right/found"], after["eval_wrong/found"]) == (1.0, 1.0)
    assert after["eval_loss"] < 0.3
    found = ask(path, capsys)
    assert found[0] > 0.7
    assert found[1] < 0.3
    folder = tmp_path / "config"
    if adapter == "lora":
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
        release.merge_lora(config_of(path))
        folder = folder / "merged"
    assert json.loads((folder / "config.json").read_text())["architectures"] == [
        "LlamaForTokenClassification"
    ]
    assert ask(folder, capsys) == pytest.approx(found, abs=1e-3)


def ask(target: Path, capsys: Any) -> list[float]:
    capsys.readouterr()
    steps = f"0 {RIGHT}\n1 {WRONG}"
    assert run_command(["inference", str(target), "--prompt", "Is 30 more?", "--answer", steps]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[11:] for line in lines] == steps.split("\n")
    return [float(line[:9]) for line in lines]


def test_accumulation_packing_and_flattening_give_one_model(write_steps: Any, tmp_path: Path):
    plain = train(write_steps("plain", max_steps=2, curriculum_sampling=True, gradient_accumulation_steps=24))
    for name, keys in {
        "batches": {"micro_batch_size": 6, "gradient_accumulation_steps": 4},
        "flat": {"micro_batch_size": 8, "gradient_accumulation_steps": 3, "batch_flattening": True},
    }.items():
        other = train(write_steps(name, max_steps=2, curriculum_sampling=True, **keys))
        for one, two in zip(plain, other, strict=True):
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5), name
        first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / name)
        assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4, name
    packed = train(
        write_steps("packed", val_set_size=8, max_steps=1, learning_rate=1e-12, sample_packing=True)
    )
    loose = train(write_steps("loose", val_set_size=8, max_steps=1, learning_rate=1e-12))
    for name in ("eval_loss", "eval_accuracies"):
        one, two = (next(row[name] for row in rows if name in row) for rows in (packed, loose))
        assert one == pytest.approx(two, abs=1e-5)


def test_two_ranks_are_one(write_steps: Any, tmp_path: Path):
    keys = {**LORA, "val_set_size": 3, "eval_steps": 3}
    first = train(write_steps("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_steps("two", **keys, gradient_accumulation_steps=2))
    second = metrics_of(tmp_path / "two")
    for one, other in zip(first, second, strict=True):
        for name in ("loss", "accuracies", "eval_loss", "eval_accuracies", "right/found"):
            if name in one:
                assert one[name] == pytest.approx(other[name], abs=1e-4), name
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-4


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(write_steps: Any, tmp_path: Path):
    keys = {**LORA, "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "logging_steps": 3}
    train(write_steps("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    train(write_steps("cut", **keys, auto_resume_from_checkpoints=True))
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")
