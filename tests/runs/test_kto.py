"""`rl: kto` from YAML to weights: the first step, references, ranks, resuming, and what becomes of the rewards."""

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
from siredon.errors import DataError
from siredon.evaluate.wanted import Evaluation

#: The base, and LoRA that starts as nothing.
ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}


def judged_rows(count: int = 24) -> list[dict[str, Any]]:
    """Answers that say yes are good, others are bad."""
    return [
        {
            "messages": [{"role": "user", "content": f"Is {number} {'more' * (number % 5)} than it was?"}],
            "completion": f"Yes, {number} is{' very' * (number % 4)} good."
            if number % 3
            else f"No{', no' * (number % 5)}, {number}.",
            "label": bool(number % 3),
        }
        for number in range(count)
    ]


@pytest.fixture
def write_judged(write_config: Any, tmp_path: Path) -> Any:
    """Writes a config over 24 judged answers; keyword arguments change keys."""
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in judged_rows()))

    def write(name: str = "config", **changes: Any) -> Path:
        keys = {
            "rl": "kto",
            "datasets": [{"path": str(path), "type": "chat_template.default"}],
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
def test_the_first_step_is_the_reference_and_margins_rise(write_judged: Any, tmp_path: Path, adapter: str):
    metrics = train(write_judged(**ADAPTERS[adapter], val_set_size=6, eval_steps=3, gradient_accumulation_steps=6))
    steps = [row for row in metrics if "loss" in row]
    # Each answer has 1 - sigmoid(0) = 1/2 where policy and reference are one, whatever it is
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert steps[0]["kl"] == 0
    assert all(value == 0 for name, value in steps[0].items() if name.startswith("rewards"))
    assert [row["count/chosen"] + row["count/rejected"] for row in steps] == [6, 6, 6]
    assert steps[-1]["loss"] < 0.5
    before, after = [row for row in metrics if "eval_loss" in row]
    assert before["eval_loss"] == pytest.approx(0.5, abs=1e-6)
    assert (after["eval_count/chosen"] + after["eval_count/rejected"]) == 6
    assert after["eval_kl"] >= 0
    assert all(math.isfinite(value) for row in metrics for value in row.values())
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path / "config").values())
