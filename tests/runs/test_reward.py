"""`reward_model: true` from YAML to weights: what is learned, ranks, resuming, merging, and scores for text."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline, release
from siredon.config.load import load_config

ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}


def pair(number: int) -> dict[str, Any]:
    """The better answer says so, and nothing else tells them apart."""
    return {
        "input": f"Is {number} {'more' * (number % 5)} than it was?",
        "chosen": f"The {number} is good {'indeed ' * (number % 3)}.",
        "rejected": f"The {number} is bad {'indeed ' * ((number + 1) % 3)}.",
    }


@pytest.fixture
def write_pairs(write_config: Any, tmp_path: Path) -> Any:
    """Writes a config over 24 pairs; keyword arguments change keys."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair(number)) + "\n" for number in range(24)))

    def write(name: str = "config", **changes: Any) -> Path:
        keys = {
            "reward_model": True,
            "datasets": [{"path": str(path), "type": "bradley_terry.chat_template"}],
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
def test_what_can_be_told_apart_is(write_pairs: Any, tmp_path: Path, adapter: str):
    """All held-out pairs, which the model has not seen, are in the right order."""
    metrics = train(
        write_pairs(**ADAPTERS[adapter], val_set_size=8, eval_steps=20, max_steps=20, learning_rate=5e-3)
    )
    print(metrics)
    before, after = [row for row in metrics if "eval_loss" in row]
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=0.1)
    assert after["eval_rewards/accuracies"] == 1.0
    assert after["eval_rewards/margins"] > 1
    assert after["eval_rewards/min"] <= after["eval_rewards/mean"] <= after["eval_rewards/max"]
    weights = weights_of(tmp_path / "config")
    assert [tuple(value.shape) for name, value in weights.items() if "score" in name] == [(1, 64)]
