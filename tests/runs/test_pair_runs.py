"""`rl: ipo`, `simpo` and `orpo`, and pairs that are weighed, from YAML to weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.pair_runs import cut_short, pair_writer, train
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, metrics_of, weights_of
from tests.runs.test_watching import untimed

METHODS: dict[str, dict[str, Any]] = {
    "ipo": {"rl": "ipo", "rl_beta": 0.2},
    "simpo": {"rl": "simpo", "rl_beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.1},
    "orpo": {"rl": "orpo", "orpo_alpha": 0.2},
    "weighed": {"rl": "dpo", "dpo_use_weighting": True},
    "aot": {"rl": "dpo", "dpo_loss_type": ["aot"]},
    "aot_unpaired": {"rl": "dpo", "dpo_loss_type": ["aot_unpaired", "sft"], "dpo_loss_weights": [1.0, 0.1]},
}
#: The loss of a first step, where it is known: the policy is the reference.
FIRST = {"ipo": 6.25}


@pytest.fixture
def write_pairs(write_config: Any, tmp_path: Path) -> Any:
    return pair_writer(write_config, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_validates_and_tells_the_sides_apart(write_pairs: Any, tmp_path: Path, method: str):
    rows = train(write_pairs(**METHODS[method], **LORA, val_set_size=4, eval_steps=3, max_steps=6))
    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if "eval_loss" in row]
    if method in FIRST:
        assert steps[0]["loss"] == pytest.approx(FIRST[method], rel=1e-6)
    assert validations[-1]["eval_rewards/margins"] > validations[0]["eval_rewards/margins"]
    assert validations[-1]["eval_loss"] < validations[0]["eval_loss"]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path / "config").values())


@pytest.mark.parametrize("method", ["simpo", "orpo"])
def test_no_reference_is_made_where_none_is_needed(
    write_pairs: Any, method: str, capsys: pytest.CaptureFixture[str]
):
    train(write_pairs(**METHODS[method], max_steps=1))
    assert "reference:" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("method", ["simpo", "weighed", "aot"])
def test_accumulation_and_packing_give_one_model(write_pairs: Any, tmp_path: Path, method: str):
    keys = {**METHODS[method], "max_steps": 2, "curriculum_sampling": True}
    plain = train(write_pairs("plain", **keys, gradient_accumulation_steps=24))
    for name, changes in {
        "batches": {"micro_batch_size": 6, "gradient_accumulation_steps": 4},
        "packed": {"micro_batch_size": 1, "gradient_accumulation_steps": 24, "sample_packing": True},
    }.items():
        other = train(write_pairs(name, **keys, **changes))
        for one, two in zip(plain, other, strict=True):
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5), name
        first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / name)
        assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4, name


@pytest.mark.parametrize("method", ["simpo", "weighed", "aot_unpaired"])
def test_two_ranks_are_one(write_pairs: Any, tmp_path: Path, method: str):
    keys = {**METHODS[method], "val_set_size": 3, "eval_steps": 3}
    first = train(write_pairs("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_pairs("two", **keys, gradient_accumulation_steps=2))
    second = metrics_of(tmp_path / "two")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for one, other in zip(first, second, strict=True):
        for name in ("loss", "eval_loss", "rewards/margins", "rewards/accuracies", "lengths/chosen"):
            if name in one:
                assert one[name] == pytest.approx(other[name], abs=2e-3, rel=1e-4), name
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-4


@pytest.mark.parametrize("method", ["orpo", "aot"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(write_pairs: Any, tmp_path: Path, method: str):
    keys = {**METHODS[method], "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "logging_steps": 3}
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    train(write_pairs("cut", **keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")


@pytest.mark.parametrize("method", ["ipo", "aot_unpaired"])
def test_references_computed_ahead_are_those_computed_live(write_pairs: Any, method: str):
    keys = {**METHODS[method], "val_set_size": 4}
    live = train(write_pairs("live", **keys))
    ahead = train(write_pairs("ahead", **keys, precompute_ref_log_probs=True))
    for one, other in zip(live, ahead, strict=True):
        for name in ("loss", "eval_loss"):
            assert one.get(name, 0) == pytest.approx(other.get(name, 0), abs=1e-4)


def test_pairs_without_padding_and_by_another_name_of_the_loss_are_the_same(write_pairs: Any, tmp_path: Path):
    keys = {"micro_batch_size": 4, "curriculum_sampling": True, "max_steps": 2}
    plain = train(write_pairs("plain", **keys))
    flat = train(write_pairs("flat", **keys, dpo_padding_free=True, dpo_use_liger_kernel=True))
    for one, other in zip(plain, flat, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / "flat")
    assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4


@pytest.mark.parametrize("method", METHODS)
def test_entropies_are_logged_where_the_file_asks_and_change_nothing(
    write_pairs: Any, tmp_path: Path, method: str
):
    keys = {**METHODS[method], "val_set_size": 4, "eval_steps": 2, "max_steps": 2}
    best = {"save_strategy": "steps", "save_steps": 2, "metric_for_best_model": "eval_entropy/chosen"}
    train(write_pairs("plain", **keys))
    train(write_pairs("asked", **keys, log_entropy=True, **(best if method == "ipo" else {})))
    for one, other in zip(untimed(tmp_path / "plain"), untimed(tmp_path / "asked"), strict=True):
        mark = "eval_" if "eval_loss" in one else ""
        added = {f"{mark}entropy/{side}" for side in ("chosen", "rejected")}
        assert {*other} - {*one} == added
        assert all(0 < other[name] < math.log(512) for name in added)
        assert {name: value for name, value in other.items() if name not in added} == one
    assert_same_state(weights_of(tmp_path / "asked"), weights_of(tmp_path / "plain"))


@pytest.mark.parametrize("adapter", ["lora", "pissa", "none"])
@pytest.mark.parametrize("method", ["ipo", "weighed", "aot"])
def test_divergences_are_logged_where_the_file_asks_and_change_nothing(
    write_pairs: Any, tmp_path: Path, method: str, adapter: str
):
    start = {"peft_init_lora_weights": "pissa"} if adapter == "pissa" else {}
    keys = {**METHODS[method], **({} if adapter == "none" else LORA), **start}
    keys |= {"val_set_size": 4, "eval_steps": 2, "max_steps": 2}
    train(write_pairs("plain", **keys))
    train(write_pairs("asked", **keys, log_kl=True))
    rows = untimed(tmp_path / "asked")
    for one, other in zip(untimed(tmp_path / "plain"), rows, strict=True):
        mark = "eval_" if "eval_loss" in one else ""
        added = {f"{mark}kl/{side}" for side in ("chosen", "rejected")}
        assert {*other} - {*one} == added
        assert {name: value for name, value in other.items() if name not in added} == one
    assert rows[0]["eval_kl/chosen"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["eval_kl/chosen"] > 1e-5
    assert_same_state(weights_of(tmp_path / "asked"), weights_of(tmp_path / "plain"))
