"""A reference model or adapter that the file names, from YAML to weights: the first step, the cache, resuming."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.runs.pair_runs import cut_short, move_model, pair_writer, train
from tests.runs.test_dpo import REWARDS, assert_starts_alike
from tests.runs.test_kto import judged_rows
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline
from siredon.errors import CheckpointError


@pytest.fixture
def write_pairs(write_config: Any, tmp_path: Path) -> Any:
    return pair_writer(write_config, tmp_path)


@pytest.fixture
def other(model_folder: Path, tmp_path: Path) -> Path:
    """A model like the base, whose weights have moved."""
    return move_model(model_folder, tmp_path / "other")


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_the_base_as_a_second_model_is_the_default_to_the_bit(
    write_pairs: Any, tmp_path: Path, model_folder: Path, adapter: dict[str, Any], capsys: Any
):
    """The first step has the loss ln 2 and no rewards, and the run is the one without the key."""
    keys = {**adapter, "val_set_size": 4, "eval_steps": 3}
    plain = train(write_pairs("plain", **keys))
    named = train(write_pairs("named", **keys, reference_model=str(model_folder)))
    steps = [row for row in named if "loss" in row]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert [steps[0][name] for name in REWARDS] == [0.0, 0.0, 0.0]
    assert_starts_alike(steps)
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "named")
    assert len(plain) == len(named)
    assert_same_state(weights_of(tmp_path / "plain"), weights_of(tmp_path / "named"))
    assert f"reference: {model_folder}: a second model of" in capsys.readouterr().err


@pytest.mark.parametrize("packing", [{}, {"sample_packing": True}], ids=["unpacked", "packed"])
def test_another_model_gives_rewards_from_the_start_live_and_ahead(
    write_pairs: Any, other: Path, packing: dict[str, Any], capsys: Any
):
    keys = {**LORA, **packing, "val_set_size": 4, "reference_model": str(other)}
    live = train(write_pairs("live", **keys))
    first = next(row for row in live if "loss" in row)
    assert first["loss"] != pytest.approx(math.log(2), abs=1e-3)
    assert abs(first["rewards/chosen"]) > 1e-3
    for name, line in (("ahead", "computing log-probabilities"), ("again", "(computed before)")):
        capsys.readouterr()
        ahead = train(write_pairs(name, **keys, precompute_ref_log_probs=True))
        said = capsys.readouterr().err
        assert line in said
        # The second model is read only where it has to be asked
        assert ("a second model of" in said) == (name == "ahead")
        for one, two in zip(live, ahead, strict=True):
            for key in ("loss", "eval_loss", *REWARDS[:2]):
                assert one.get(key, 0) == pytest.approx(two.get(key, 0), abs=1e-4), key


def test_the_reference_is_in_the_key_of_what_is_computed_ahead(
    write_pairs: Any, other: Path, model_folder: Path, tmp_path: Path
):
    train(write_pairs("adapter", **LORA))
    adapter = str(tmp_path / "adapter")
    keys = {**LORA, "max_steps": 1, "precompute_ref_log_probs": True}
    model = {"reference_model": str(other)}
    runs: list[tuple[dict[str, Any], int]] = [
        ({}, 1),
        ({"reference_model": str(model_folder)}, 2),
        (model, 3),
        # Nothing of the policy is in it
        ({**model, "lora_r": 2, "rl_beta": 0.3, "learning_rate": 1e-4}, 3),
        ({**model, "reference_adapter": adapter}, 4),
        ({"reference_adapter": adapter}, 5),
        ({"reference_adapter": adapter}, 5),
    ]
    for number, (changes, count) in enumerate(runs):
        train(write_pairs(f"run{number}", **{**keys, **changes}))
        found = len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy")))
        assert found == count, (number, changes)
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    train(write_pairs("moved", **keys, **model))
    assert len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy"))) == 6


def test_a_finished_adapter_as_the_reference_of_one_that_goes_on_from_it(write_pairs: Any, tmp_path: Path):
    """The default compares with the policy at its start: naming that adapter gives the same run."""
    train(write_pairs("first", **LORA))
    adapter = str(tmp_path / "first")
    keys = {"adapter": "lora", "lora_model_dir": adapter}
    train(write_pairs("plain", **keys))
    named = train(write_pairs("named", **keys, reference_adapter=adapter))
    assert_starts_alike(named)
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "named")
    # A new adapter, held against the finished one
    fresh = train(write_pairs("fresh", **LORA, reference_adapter=adapter))
    assert fresh[0]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_the_base_and_not_the_adapter_that_is_trained_on(
    write_pairs: Any, tmp_path: Path, model_folder: Path, capsys: Any
):
    """`rl_adapter_ref_model: true`: the run is the one that names the base, and not the default."""
    train(write_pairs("first", **LORA))
    keys = {"adapter": "lora", "lora_model_dir": str(tmp_path / "first")}
    plain = train(write_pairs("plain", **keys))
    capsys.readouterr()
    second = train(write_pairs("second", **keys, rl_adapter_ref_model=True))
    assert f"reference: {model_folder}: a second model of" in capsys.readouterr().err
    assert plain[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(second[0]["rewards/chosen"]) > 1e-3
    named = train(write_pairs("named", **keys, reference_model=str(model_folder)))
    assert len(named) == len(second)
    assert untimed(tmp_path / "second") == untimed(tmp_path / "named")
    assert_same_state(weights_of(tmp_path / "second"), weights_of(tmp_path / "named"))
    ahead = {"precompute_ref_log_probs": True}
    for number, changes in enumerate(
        [{}, {"rl_adapter_ref_model": True}, {"reference_model": str(model_folder)}], 1
    ):
        known = train(write_pairs(f"ahead{number}", **keys, **ahead, **changes))
        wanted = plain if number == 1 else second
        assert [row["loss"] for row in known] == pytest.approx([row["loss"] for row in wanted], abs=1e-4)
        # Both ways to name the base share what it said
        assert len(list((tmp_path / "prepared").glob("*/reference_log_probs.npy"))) == min(number, 2)


def test_beside_a_new_adapter_the_base_is_what_the_default_compares_with(write_pairs: Any, tmp_path: Path):
    train(write_pairs("plain", **LORA))
    assert_starts_alike(train(write_pairs("second", **LORA, rl_adapter_ref_model=True)))
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "second")


def test_answers_that_are_judged_are_compared_with_it_too(
    write_pairs: Any, tmp_path: Path, other: Path, model_folder: Path
):
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in judged_rows()))
    keys = {"rl": "kto", "datasets": [{"path": str(path), "type": "chat_template.default"}]}
    train(write_pairs("plain", **keys))
    train(write_pairs("named", **keys, reference_model=str(model_folder)))
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "named")
    rows = train(write_pairs("moved", **keys, reference_model=str(other)))
    assert abs(rows[0]["rewards/chosen"]) > 1e-3


def test_losses_over_a_whole_step_are_compared_with_it_too(write_pairs: Any, other: Path):
    keys = {"dpo_loss_type": ["aot"], "val_set_size": 4, "reference_model": str(other)}
    live = train(write_pairs("live", **keys))
    ahead = train(write_pairs("ahead", **keys, precompute_ref_log_probs=True))
    for one, two in zip(live, ahead, strict=True):
        for name in ("loss", "eval_loss"):
            assert one.get(name, 0) == pytest.approx(two.get(name, 0), abs=1e-4)


def test_a_run_goes_on_with_its_reference_bit_for_bit_and_with_no_other(
    write_pairs: Any, tmp_path: Path, other: Path, model_folder: Path
):
    keys = {**LORA, "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "reference_model": str(other)}
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    for named in ({"reference_model": str(model_folder)}, {"reference_model": None}):
        with pytest.raises(CheckpointError, match=r"reference: .*compared with another model"):
            pipeline.train(
                config_of(write_pairs("cut", **{**keys, **named}, auto_resume_from_checkpoints=True))
            )
    moved = tmp_path / "moved"
    shutil.move(other, moved)
    train(write_pairs("cut", **{**keys, "reference_model": str(moved)}, auto_resume_from_checkpoints=True))
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")


def test_what_a_run_writes_has_nothing_of_its_reference(write_pairs: Any, tmp_path: Path, other: Path):
    train(write_pairs("adapter", **LORA))
    plain = train(write_pairs("plain", **LORA, save_strategy="steps", save_steps=3))
    for name, keys in {
        "model": {"reference_model": str(other)},
        "adapted": {"reference_adapter": str(tmp_path / "adapter")},
    }.items():
        found = train(write_pairs(name, **LORA, **keys, save_strategy="steps", save_steps=3))
        assert len(found) == len(plain)
        for folder in ("", "checkpoint-3"):
            there, usual = (
                sorted(path.name for path in (tmp_path / run / folder).iterdir()) for run in (name, "plain")
            )
            assert there == usual
        assert weights_of(tmp_path / name).keys() == weights_of(tmp_path / "plain").keys()


@pytest.mark.long
@pytest.mark.parametrize("ahead", [False, True])
def test_two_ranks_are_one(write_pairs: Any, tmp_path: Path, other: Path, ahead: bool):
    keys = {**LORA, "val_set_size": 3, "reference_model": str(other), "precompute_ref_log_probs": ahead}
    first = train(write_pairs("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_pairs("two", **keys, gradient_accumulation_steps=2))
    for one, two in zip(first, metrics_of(tmp_path / "two"), strict=True):
        for name in ("loss", "eval_loss", *REWARDS):
            assert one.get(name, 0) == pytest.approx(two.get(name, 0), abs=2e-3), name
