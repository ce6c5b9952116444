"""`rl: dpo` from YAML to weights: the first step, references, ranks, resuming, and what becomes of the margins."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.pair_runs import cut_short, pair_writer, train
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon.config.load import load_config
from siredon.evaluate.rows import prepare_rows

#: The base, and LoRA that starts as nothing and as something.
ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins")


@pytest.fixture
def write_pairs(write_config: Any, tmp_path: Path) -> Any:
    return pair_writer(write_config, tmp_path)


def assert_starts_alike(metrics: list[dict[str, Any]], error: float = 0.0) -> None:
    """The first step is made by the reference model itself, and the last one is not."""
    assert abs(metrics[0]["loss"] - math.log(2)) <= 1e-6 + error
    assert all(abs(metrics[0][name]) <= error for name in REWARDS)
    assert metrics[-1]["rewards/margins"] > 0.01
    assert all(math.isfinite(value) for row in metrics for value in row.values())


@pytest.mark.parametrize("precomputes", [False, True])
def test_an_automatic_plan_counts_with_pairs(write_pairs: Any, capsys: Any, precomputes: bool):
    keys = {**LORA, "precompute_ref_log_probs": precomputes, "gradient_checkpointing": "auto"}
    keys |= {"probe_longest_batch": True, "val_set_size": 4, "eval_steps": 3}
    metrics = train(write_pairs(**keys))
    assert_starts_alike([row for row in metrics if "loss" in row], 1e-5)
    assert "memory: gradient_checkpointing auto:" in capsys.readouterr().err


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_first_step_is_the_reference_and_margins_rise(write_pairs: Any, tmp_path: Path, adapter: str):
    metrics = train(write_pairs(**ADAPTERS[adapter], val_set_size=4, eval_steps=3))
    assert_starts_alike([row for row in metrics if "loss" in row])
    before, after = [row for row in metrics if "eval_loss" in row]
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert after["eval_rewards/margins"] > 0
    assert after["eval_rewards/accuracies"] > 0.5
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path / "config").values())


def test_an_adapter_that_is_trained_on_is_its_own_reference(write_pairs: Any, tmp_path: Path):
    train(write_pairs("first", **LORA))
    kept = {name: value.clone() for name, value in weights_of(tmp_path / "first").items()}
    keys = {"adapter": "lora", "lora_model_dir": str(tmp_path / "first")}
    second = train(write_pairs("second", **keys))
    assert_starts_alike(second)
    later = train(write_pairs("known", **keys, precompute_ref_log_probs=True))
    assert_starts_alike(later, error=1e-4)
    assert later[-1]["loss"] == pytest.approx(second[-1]["loss"], abs=1e-5)
    # The second run began where the first one ended, and has moved
    moved = weights_of(tmp_path / "second")
    assert max((moved[name] - kept[name]).abs().max().item() for name in kept) > 1e-4
    # Against the base the same policy would have had rewards from the start
    base = train(write_pairs("base", **LORA))
    assert base[1]["loss"] != pytest.approx(second[1]["loss"], abs=1e-4)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_references_computed_ahead_are_those_computed_live(write_pairs: Any, tmp_path: Path, adapter: str):
    keys = {**ADAPTERS[adapter], "val_set_size": 4}
    live = train(write_pairs("live", **keys))
    for name in ("ahead", "again"):
        ahead = train(
            write_pairs(name, **keys, precompute_ref_log_probs=True, sample_packing=name == "again")
        )
        found = [row[key] for row in ahead for key in ("eval_loss",) if key in row]
        assert found[0] == pytest.approx(live[0]["eval_loss"], abs=1e-5)
        if name == "ahead":
            for one, other in zip(live, ahead, strict=True):
                assert one.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=1e-5)
    assert len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy"))) == 1


def test_what_a_reference_is_made_of_is_in_its_key(write_pairs: Any, tmp_path: Path, model_folder: Path):
    """Other weights, other number formats and other samples are other log-probabilities."""
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    keys = {"max_steps": 1, "precompute_ref_log_probs": True, "base_model": str(model)}
    for number, changes in enumerate(
        [{}, {}, {"weights": 0.01}, {"bf16": True}, {"train_on_eos": "none"}, {"rl_beta": 0.5}], 1
    ):
        if "weights" in changes:
            weights = load_file(model / "model.safetensors")
            moved = {name: value + changes["weights"] for name, value in weights.items()}
            save_file(moved, model / "model.safetensors", {"format": "pt"})
            changes = {}
        if "train_on_eos" in changes:
            entry = {"path": str(tmp_path / "pairs.jsonl"), "type": "chat_template", "train_on_eos": "none"}
            changes = {"datasets": [entry]}
        train(write_pairs(f"run{number}", **keys, **changes))
        count = len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy")))
        assert count == [1, 1, 2, 3, 4, 4][number - 1], (number, changes)


def test_accumulation_packing_and_flattening_give_one_model(write_pairs: Any, tmp_path: Path):
    plain = train(write_pairs("plain", max_steps=2, curriculum_sampling=True, gradient_accumulation_steps=24))
    for name, keys in {
        "batches": {"micro_batch_size": 6, "gradient_accumulation_steps": 4},
        "flat": {"micro_batch_size": 8, "gradient_accumulation_steps": 3, "batch_flattening": True},
        "packed": {"micro_batch_size": 1, "gradient_accumulation_steps": 24, "sample_packing": True},
    }.items():
        other = train(write_pairs(name, max_steps=2, curriculum_sampling=True, **keys))
        for one, two in zip(plain, other, strict=True):
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5), name
        first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / name)
        assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4, name


@pytest.mark.parametrize("keys", [{**LORA}, {"precompute_ref_log_probs": True}], ids=["live", "ahead"])
def test_two_ranks_are_one(write_pairs: Any, tmp_path: Path, keys: dict[str, Any]):
    keys = {**keys, "val_set_size": 3, "eval_steps": 3}
    first = train(write_pairs("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_pairs("two", **keys, gradient_accumulation_steps=2))
    second = metrics_of(tmp_path / "two")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    names = [
        name
        for row in first
        for name in row
        if name.startswith(("loss", "rewards", "logps", "lengths", "eval"))
    ]
    for one, other in zip(first, second, strict=True):
        for name in names:
            if name in one and "second" not in name and "runtime" not in name:
                assert one[name] == pytest.approx(other[name], abs=2e-3, rel=1e-4), name
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-4


@pytest.mark.parametrize(
    "keys",
    [{**LORA}, {**LORA, "peft_init_lora_weights": "pissa"}, {}, {"precompute_ref_log_probs": True}],
    ids=["lora", "pissa", "full", "ahead"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    write_pairs: Any, tmp_path: Path, keys: dict[str, Any]
):
    keys = {**keys, "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "logging_steps": 3}
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    train(write_pairs("cut", **keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")


def test_smoothing_beta_and_weights_reach_the_loss(write_pairs: Any):
    keys = {
        "dpo_label_smoothing": 0.1,
        "dpo_loss_type": ["sigmoid"],
        "dpo_loss_weights": [0.5],
        "rl_beta": 0.4,
    }
    metrics = train(write_pairs(**keys, max_steps=2))
    assert metrics[0]["loss"] == pytest.approx(0.5 * math.log(2), abs=1e-6)
    plain = train(write_pairs("plain", max_steps=2))
    assert metrics[0]["grad_norm"] == pytest.approx(0.5 * 4 * 0.8 * plain[0]["grad_norm"], rel=1e-3)


def test_dropout_is_left_out_and_said_to_be(write_pairs: Any):
    path = write_pairs(**LORA, lora_dropout=0.3)
    _, warnings = load_config(str(path))
    assert any(warning.code == "SD0634" for warning in warnings)
    assert_starts_alike(train(path))


def test_what_writes_and_judges_words_takes_the_chosen_side(write_pairs: Any, tmp_path: Path, tokenizer: Any):
    keys = {
        "val_set_size": 4,
        "eval_steps": 2,
        "max_steps": 2,
        "generate_samples": True,
        "num_generation_samples": 2,
    }
    train(write_pairs(**keys, generation_max_new_tokens=4))
    rows = [json.loads(line) for line in (tmp_path / "config" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) >= 2
    (judged,) = prepare_rows(config_of(tmp_path / "config.yml"), tokenizer, None)
    assert [len(judged.packs[number]) for number in range(4)] == [2, 2, 2, 2]
    render = build_prompting_of(config_of(tmp_path / "config.yml"), tokenizer)
    assert render("Why?") == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def build_prompting_of(config: Any, tokenizer: Any) -> Any:
    from siredon.data.prompt import set_prompting_

    return set_prompting_(tokenizer, config).render


def test_a_bad_step_is_written_down_document_by_document(write_pairs: Any, tmp_path: Path):
    """A step is named bad by a spike, as any is after a rate of learning that is far too high."""
    keys = {
        "on_bad_step": "skip",
        "spike_factor": 1.01,
        "spike_window": 8,
        "max_steps": 12,
        "learning_rate": 0.5,
    }
    train(write_pairs(**keys, gradient_accumulation_steps=2))
    written = list((tmp_path / "config").rglob("step-*.jsonl"))
    assert written
    (first, *_) = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert first["prepared_row"] in range(24)
    assert first["num_targets"] == sum(first["learned"])
