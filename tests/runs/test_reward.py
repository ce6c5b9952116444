"""`reward_model: true` from YAML to weights: what is learned, ranks, resuming, merging, and scores for text."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.pair_runs import cut_short
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_resume import assert_same_state
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline, release
from siredon.cli.app import main
from siredon.config.load import load_config
from siredon.errors import CheckpointError

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
    before, after = [row for row in metrics if "eval_loss" in row]
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=0.1)
    assert after["eval_rewards/accuracies"] == 1.0
    assert after["eval_rewards/margins"] > 1
    assert after["eval_rewards/min"] <= after["eval_rewards/mean"] <= after["eval_rewards/max"]
    weights = weights_of(tmp_path / "config")
    assert [tuple(value.shape) for name, value in weights.items() if "score" in name] == [(1, 64)]


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
            assert one["rewards/max"] == pytest.approx(two["rewards/max"], abs=1e-4), name
        first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / name)
        assert max((first[key] - second[key]).abs().max().item() for key in first) < 2e-4, name


def test_two_ranks_are_one(write_pairs: Any, tmp_path: Path):
    keys = {**LORA, "val_set_size": 3, "eval_steps": 3}
    first = train(write_pairs("one", **keys, gradient_accumulation_steps=4))
    train_on_two_ranks(write_pairs("two", **keys, gradient_accumulation_steps=2))
    second = metrics_of(tmp_path / "two")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    compared = 0
    for one, other in zip(first, second, strict=True):
        for name in (
            name for name in one if name.startswith(("loss", "rewards", "eval_rewards", "eval_loss"))
        ):
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
            compared += 1
    assert compared == 3 * 8 + 2 * 8
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-4


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(write_pairs: Any, tmp_path: Path, adapter: str):
    keys = {
        **ADAPTERS[adapter],
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 4,
        "logging_steps": 3,
    }
    train(write_pairs("whole", **keys))
    cut = cut_short(tmp_path, step=2)
    train(write_pairs("cut", **keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(tmp_path / "whole"))
    assert untimed(cut) == untimed(tmp_path / "whole")


def test_the_head_starts_by_the_seed(write_pairs: Any, tmp_path: Path):
    starts = {}
    for name, seed in {"one": 1, "again": 1, "other": 2}.items():
        train(write_pairs(name, seed=seed, max_steps=1, learning_rate=1e-12))
        starts[name] = weights_of(tmp_path / name)["score.weight"]
    assert torch.equal(starts["one"], starts["again"])
    assert not torch.allclose(starts["one"], starts["other"])


def test_margins_of_rows_reach_the_loss(write_pairs: Any, tmp_path: Path):
    """A margin of 5 that the model does not have yet costs about 5; it comes out of the cache too."""
    rows = "".join(json.dumps({**pair(number), "margin": 5}) + "\n" for number in range(24))
    (tmp_path / "wide.jsonl").write_text(rows)
    entry = {"path": str(tmp_path / "wide.jsonl"), "type": "bradley_terry.chat_template"}
    for name in ("made", "cached"):
        metrics = train(write_pairs(name, datasets=[entry], max_steps=1))
        assert metrics[0]["loss"] == pytest.approx(5, abs=0.3)
    assert train(write_pairs("plain", max_steps=1))[0]["loss"] < 1


def test_centering_reaches_the_loss(write_pairs: Any):
    """The mean of squares is at least the square of the mean."""
    free = train(write_pairs("free", max_steps=1))[0]
    held = train(write_pairs("held", max_steps=1, center_rewards_coefficient=1.0))[0]
    assert held["loss"] - free["loss"] >= (2 * free["rewards/mean"]) ** 2
    assert held["loss"] - free["loss"] > 1e-3


def test_dropout_is_left_out_and_said_to_be(write_pairs: Any):
    _, warnings = load_config(str(write_pairs(**LORA, lora_dropout=0.3)))
    assert any(warning.code == "SD0634" for warning in warnings)


SHARP = {"max_steps": 15, "learning_rate": 5e-3}
GOOD, BAD = "The 30 is good.", "The 30 is bad."


def score(target: Path, capsys: Any, *answers: str, prompt: str = "Is 30 more?") -> list[float]:
    """What `siredon inference` prints of answers."""
    capsys.readouterr()
    words = ["inference", str(target), "--prompt", prompt]
    for answer in answers:
        words += ["--answer", answer]
    assert run_command(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[11:] for line in lines] == list(answers)
    return [float(line[:9]) for line in lines]


def run_command(words: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["siredon", *words])
        try:
            main()
        except SystemExit as error:
            return int(error.code or 0)
    return 0


def true_score(model: Any, tokenizer: Any, answer: str, prompt: str = "Is 30 more?") -> float:
    """By plain transformers, whose class reads the last token that is no padding."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, 0])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_scores_of_text_are_those_of_plain_transformers(
    write_pairs: Any, tmp_path: Path, capsys: Any, adapter: str
):
    """The run, its folder, what is merged of it, and the same by transformers and PEFT alone."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = write_pairs(**SHARP, **ADAPTERS[adapter])
    train(path)
    found = score(path, capsys, GOOD, BAD)
    assert found[0] > found[1] + 1
    folder = tmp_path / "config"
    assert score(folder, capsys, GOOD, BAD) == found
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if adapter == "lora":
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["task_type"] == "SEQ_CLS"
        assert "score" in settings["modules_to_save"]
        plain = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
        assert [true_score(plain, tokenizer, text) for text in (GOOD, BAD)] == pytest.approx(found, abs=1e-3)
        release.merge_lora(config_of(path))
        folder = folder / "merged"
        verified = json.loads((folder / "merge.json").read_text())["verified"]
        assert verified["max_error"] < 1e-3
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert whole.config.num_labels == 1
    assert [true_score(whole, tokenizer, text) for text in (GOOD, BAD)] == pytest.approx(found, abs=1e-3)
    assert score(folder, capsys, GOOD, BAD) == pytest.approx(found, abs=1e-3)
    (folder / "run.json").unlink()  # A model from elsewhere is read in bf16
    assert score(folder, capsys, GOOD, BAD) == pytest.approx(found, abs=0.05)


def test_a_file_of_answers_becomes_one_of_scores(write_pairs: Any, tmp_path: Path, capsys: Any):
    path = write_pairs(**SHARP)
    train(path)
    rows = [
        {"prompt": "Is 30 more?", "answers": [GOOD, BAD], "id": 7},
        {"messages": [{"role": "user", "content": "Is 30 more?"}], "answer": GOOD},
    ]
    source, output = tmp_path / "answers.jsonl", tmp_path / "scores.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(["inference", str(path), "--input", str(source), "--output", str(output)]) == 0
    first, second = [json.loads(line) for line in output.read_text().splitlines()]
    assert first["id"] == 7
    assert first["scores"][0] == second["score"]
    assert first["scores"] == pytest.approx(score(path, capsys, GOOD, BAD), abs=1e-4)


def test_a_reward_model_is_trained_on(write_pairs: Any, tmp_path: Path):
    """An adapter with a head goes on from both; one of a model that writes is refused."""
    train(write_pairs("first", **SHARP, **LORA))
    start = weights_of(tmp_path / "first")
    keys = {"adapter": "lora", "lora_model_dir": str(tmp_path / "first"), "learning_rate": 1e-12}
    train(write_pairs("second", **keys))
    found = weights_of(tmp_path / "second")
    assert all(torch.allclose(start[name], found[name], atol=1e-6) for name in start)
    rows = [{"path": str(tmp_path / "pairs.jsonl"), "type": "bradley_terry.chat_template"}]
    train(write_pairs("policy", reward_model=None, rl="dpo", datasets=chat_rows(tmp_path), **LORA))
    keys["lora_model_dir"] = str(tmp_path / "policy")
    with pytest.raises(CheckpointError, match="no head of scores"):
        train(write_pairs("third", **keys, datasets=rows))


def chat_rows(tmp_path: Path) -> list[dict[str, str]]:
    path = tmp_path / "chat.jsonl"
    rows = [pair(number) for number in range(24)]
    for row in rows:
        row["messages"] = [{"role": "user", "content": row.pop("input")}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"path": str(path), "type": "chat_template.default"}]


def test_pairs_of_dpo_are_pairs_of_a_reward_model(write_pairs: Any, tmp_path: Path):
    one = train(write_pairs("one"))
    other = train(write_pairs("other", datasets=chat_rows(tmp_path)))
    assert [row["loss"] for row in one] == [row["loss"] for row in other]


@pytest.mark.parametrize("verb", ["serve", "chat", "lm-eval", "export", "quantize"])
def test_what_is_for_models_that_write_is_refused(write_pairs: Any, capsys: Any, verb: str):
    words = {"export": ["--format", "gguf"]}.get(verb, [])
    assert run_command([verb, str(write_pairs()), *words]) != 0
    assert "`reward_model: true`: a model that judges writes no text" in capsys.readouterr().err
