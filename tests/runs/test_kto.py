"""`rl: kto` from YAML to weights: the first step, references, ranks, resuming, and what becomes of the rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.pair_runs import cut_short
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline

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
    metrics = train(
        write_judged(**ADAPTERS[adapter], val_set_size=6, eval_steps=3, gradient_accumulation_steps=6)
    )
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


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_references_computed_ahead_are_those_computed_live(write_judged: Any, tmp_path: Path, adapter: str):
    keys = {**ADAPTERS[adapter], "val_set_size": 4}
    live = train(write_judged("live", **keys))
    for name in ("ahead", "again"):
        ahead = train(write_judged(name, **keys, precompute_ref_log_probs=True))
        for one, other in zip(live, ahead, strict=True):
            for key in ("loss", "kl", "eval_loss", "eval_kl", "rewards/chosen"):
                assert one.get(key, 0) == pytest.approx(other.get(key, 0), abs=2e-4), (name, key)
    assert len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy"))) == 1
    # Other partners are other samples
    train(write_judged("other", **keys, precompute_ref_log_probs=True, seed=8, max_steps=1))
    assert len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy"))) == 2


def test_an_adapter_that_is_trained_on_is_its_own_reference(write_judged: Any, tmp_path: Path):
    train(write_judged("first", **LORA))
    keys = {"adapter": "lora", "lora_model_dir": str(tmp_path / "first")}
    second = train(write_judged("second", **keys))
    assert second[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert second[0]["kl"] == 0


def test_accumulation_packing_and_flattening_give_one_model(write_judged: Any, tmp_path: Path):
    keys = {"max_steps": 3, "curriculum_sampling": True}
    plain = train(write_judged("plain", **keys, gradient_accumulation_steps=24))
    for name, changes in {
        "batches": {"micro_batch_size": 5, "gradient_accumulation_steps": 5},
        "flat": {"micro_batch_size": 8, "gradient_accumulation_steps": 3, "batch_flattening": True},
        "packed": {"micro_batch_size": 1, "gradient_accumulation_steps": 24, "sample_packing": True},
    }.items():
        other = train(write_judged(name, **keys, **changes))
        for one, two in zip(plain, other, strict=True):
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5), name
            assert one["kl"] == pytest.approx(two["kl"], abs=1e-3), name
        first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / name)
        assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4, name


@pytest.mark.parametrize("keys", [{**LORA}, {"precompute_ref_log_probs": True}], ids=["live", "ahead"])
def test_two_ranks_are_one(write_judged: Any, tmp_path: Path, keys: dict[str, Any]):
    keys = {**keys, "val_set_size": 5, "eval_steps": 3}
    first = train(write_judged("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_judged("two", **keys, gradient_accumulation_steps=2))
    second = metrics_of(tmp_path / "two")
    names = ("loss", "rewards", "logps", "lengths", "count", "kl", "eval")
    for one, other in zip(first, second, strict=True):
        for name in one:
            if name.startswith(names) and "second" not in name and "runtime" not in name:
                assert one[name] == pytest.approx(other[name], abs=2e-3, rel=1e-4), name
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-4


@pytest.mark.parametrize(
    "keys", [{**LORA}, {}, {"precompute_ref_log_probs": True}], ids=["lora", "full", "ahead"]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    write_judged: Any, tmp_path: Path, keys: dict[str, Any]
):
    keys = {**keys, "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "logging_steps": 3}
    train(write_judged("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    train(write_judged("cut", **keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")


def test_weights_and_beta_reach_the_loss(write_judged: Any):
    keys = {"kto_desirable_weight": 1.0, "kto_undesirable_weight": 3.0, "rl_beta": 0.4}
    (first, *_) = train(write_judged(**keys, max_steps=2))
    assert first["loss"] == pytest.approx((first["count/chosen"] + 3 * first["count/rejected"]) / 8, abs=1e-6)
    (plain, *_) = train(write_judged("plain", max_steps=2, kto_undesirable_weight=3.0))
    assert first["grad_norm"] == pytest.approx(4 * plain["grad_norm"], rel=1e-3)


def test_a_mixture_draws_matched_answers(write_judged: Any, tmp_path: Path):
    other = tmp_path / "more.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in judged_rows(48)[24:]))
    entries = [
        {"path": str(tmp_path / "judged.jsonl"), "type": "chat_template", "weight": 3},
        {"path": str(other), "type": "chat_template", "weight": 1},
    ]
    metrics = train(write_judged(datasets=entries, mix_strategy="all_exhausted", max_steps=2))
    assert metrics[0]["loss"] == pytest.approx(0.5, abs=1e-6)


def test_a_bad_step_is_written_down_document_by_document(write_judged: Any, tmp_path: Path):
    keys = {
        "on_bad_step": "skip",
        "spike_factor": 1.01,
        "spike_window": 8,
        "max_steps": 12,
        "learning_rate": 0.5,
    }
    train(write_judged(**keys, gradient_accumulation_steps=2))
    written = list((tmp_path / "config").rglob("step-*.jsonl"))
    assert written
    (first, *_) = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert first["prepared_row"] in range(24)
    assert first["num_targets"] == sum(first["learned"])
