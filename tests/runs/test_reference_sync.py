"""`trl.sync_ref_model`: a reference that follows the policy, step by step, and goes on from a checkpoint."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.runs.pair_runs import cut_short, pair_writer, train
from tests.runs.test_dpo import REWARDS
from tests.runs.test_kto import judged_rows
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline
from siredon.errors import CheckpointError
from siredon.train.checkpoint import REFERENCE

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}


@pytest.fixture
def write_pairs(write_config: Any, tmp_path: Path) -> Any:
    return pair_writer(write_config, tmp_path)


def follow(share: float = 0.6, period: int = 1) -> dict[str, Any]:
    """Keys of a reference that follows the policy."""
    keys = {"sync_ref_model": True, "ref_model_mixup_alpha": share, "ref_model_sync_steps": period}
    return {"trl": keys}


def read_policy(folder: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint has of the policy, by the names of PEFT on disk, or of the model."""
    (path,) = folder.glob("*model.safetensors")
    return load_file(path)


def as_on_disk(name: str) -> str:
    """The name that a parameter in memory has on disk."""
    return name.replace(".default", "")


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("background", [False, True])
def test_the_reference_is_the_mixture_that_is_computed_by_hand(
    write_pairs: Any, tmp_path: Path, adapter: dict[str, Any], background: bool
):
    """After steps 2 and 4 of 5: 0.6 of the policy and 0.4 of what it was, to the bit; in between it stays."""
    keys = {**adapter, **SAVING, "max_steps": 5, "save_in_background": background}
    train(write_pairs("run", **keys, **follow(0.6, 2)))
    folders = [tmp_path / "run" / f"checkpoint-{step}" for step in range(1, 6)]
    references = [load_file(folder / REFERENCE) for folder in folders]
    policies = [read_policy(folder) for folder in folders]
    expected = references[0]
    assert expected
    for step, (found, policy) in enumerate(zip(references, policies, strict=True), 1):
        if step % 2 == 0:
            expected = {
                name: 0.6 * policy[as_on_disk(name)] + (1 - 0.6) * value for name, value in expected.items()
            }
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found), step
    assert {as_on_disk(name) for name in references[0]} == set(policies[0])
    moved = max((references[-1][name] - references[0][name]).abs().max().item() for name in references[0])
    assert moved > 1e-4


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_a_reference_that_becomes_the_policy_has_no_rewards(write_pairs: Any, adapter: dict[str, Any]):
    """With all of the policy at each step every step is a first one, and its validation too: ln 2, by definition."""
    keys = {**adapter, "val_set_size": 4, "eval_steps": 1, "max_steps": 3}
    rows = train(write_pairs("run", **keys, **follow(1.0, 1)))
    losses = [row[name] for row in rows for name in ("loss", "eval_loss") if name in row]
    assert len(losses) >= 6
    assert losses == pytest.approx([math.log(2)] * len(losses), abs=1e-6)
    assert all(row.get(name, 0) == 0 for row in rows for name in REWARDS)


def test_until_it_moves_the_run_is_the_one_whose_reference_stays(write_pairs: Any, tmp_path: Path):
    keys = {**LORA, "max_steps": 4}
    plain = train(write_pairs("plain", **keys))
    late = train(write_pairs("late", **keys, **follow(0.6, 2)))
    assert [row["loss"] for row in late[:2]] == [row["loss"] for row in plain[:2]]
    assert late[2]["loss"] != plain[2]["loss"]
    # Nearer to the policy, a reference leaves smaller rewards
    assert abs(late[2]["rewards/margins"]) < abs(plain[2]["rewards/margins"])
    train(write_pairs("never", **keys, **follow(0.6, 9)))
    assert untimed(tmp_path / "never") == untimed(tmp_path / "plain")
    assert not list((tmp_path / "late").rglob(REFERENCE))


@pytest.mark.parametrize(
    "keys",
    [{}, LORA, {**LORA, "peft_init_lora_weights": "pissa"}, {**LORA, "bfloat16": True, "bf16": False}],
    ids=["full", "lora", "pissa", "pure"],
)
@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    write_pairs: Any, tmp_path: Path, keys: dict[str, Any], step: int
):
    """From a checkpoint of a step that mixes, and from one between two of them."""
    keys = {**keys, **SAVING, **follow(0.6, 2), "max_steps": 6, "logging_steps": 4}
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=step)
    train(write_pairs("cut", **keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")
    for number in range(step + 1, 7):
        found, wanted = (
            load_file(folder / f"checkpoint-{number}" / REFERENCE) for folder in (cut, tmp_path / "whole")
        )
        assert_same_state(found, wanted)


def test_a_run_goes_on_only_as_it_began(write_pairs: Any, tmp_path: Path):
    keys = {**LORA, **SAVING, "max_steps": 2}
    train(write_pairs("plain", **keys))
    train(write_pairs("moving", **keys, **follow(0.6, 1)))
    more = {**keys, "max_steps": 4, "auto_resume_from_checkpoints": True}
    for name, changes in (
        ("plain", follow()),
        ("moving", {}),
        ("moving", follow(0.7)),
        ("moving", follow(0.6, 2)),
    ):
        with pytest.raises(CheckpointError, match=r"trl: .*decides what is trained"):
            pipeline.train(config_of(write_pairs(name, **more, **changes)))
    # A checkpoint without what it was compared with
    folder = tmp_path / "moving" / "checkpoint-2"
    (folder / REFERENCE).unlink()
    (folder / "manifest.json").unlink()
    facts = json.loads((folder / "siredon.json").read_text())
    (folder / "siredon.json").write_text(json.dumps({**facts, "manifest": False}))
    with pytest.raises(CheckpointError, match=re.escape(f"{REFERENCE} is missing")):
        pipeline.train(config_of(write_pairs("moving", **more, **follow(0.6, 1))))


def test_a_step_that_a_run_goes_back_behind_leaves_no_trace_in_the_reference(
    write_pairs: Any, tmp_path: Path
):
    """What is killed between two checkpoints has moved the reference in memory alone."""
    keys = {**LORA, **SAVING, **follow(0.5, 1), "max_steps": 4, "save_steps": 2}
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=3)
    train(write_pairs("cut", **keys, auto_resume_from_checkpoints=True))
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))


def test_answers_that_are_judged_have_one_that_follows_too(write_pairs: Any, tmp_path: Path):
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in judged_rows()))
    keys = {"rl": "kto", "datasets": [{"path": str(path), "type": "chat_template.default"}], "max_steps": 3}
    rows = train(write_pairs("run", **keys, **follow(1.0, 1)))
    # Half the weights, as at the start, since nothing has become likelier than by the reference
    assert [row["loss"] for row in rows] == pytest.approx([0.5] * 3, abs=1e-6)
    assert all(row["kl"] == 0 for row in rows)


def test_the_last_step_is_published_without_what_it_was_compared_with(write_pairs: Any, tmp_path: Path):
    """A run that was killed behind its last checkpoint is made good from it: weights, and nothing else."""
    keys = {**SAVING, **follow(), "max_steps": 2}
    train(write_pairs("run", **keys))
    out = tmp_path / "run"
    names = {path.name for path in out.iterdir() if path.is_file()}
    (out / "model.safetensors").unlink()
    pipeline.train(config_of(write_pairs("run", **keys, auto_resume_from_checkpoints=True)))
    assert (out / "model.safetensors").is_file()
    assert {path.name for path in out.iterdir() if path.is_file()} <= names
    train(write_pairs("bare", **{**keys, "save_only_model": True}))
    assert not list((tmp_path / "bare").rglob(REFERENCE))


@pytest.mark.long
def test_two_ranks_are_one(write_pairs: Any, tmp_path: Path):
    keys = {**LORA, **follow(0.6, 1), "max_steps": 3}
    first = train(write_pairs("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_pairs("two", **keys, gradient_accumulation_steps=2))
    for one, two in zip(first, metrics_of(tmp_path / "two"), strict=True):
        for name in ("loss", *REWARDS):
            assert one[name] == pytest.approx(two[name], abs=2e-3), name
