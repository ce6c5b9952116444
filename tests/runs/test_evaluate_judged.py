"""`evaluate` of policies and of models that judge: what the last validation of their training said."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.pair_runs import move_model, pair_writer, train
from tests.runs.test_evaluate import judge, target_of
from tests.runs.test_kto import judged_rows
from tests.runs.test_process_reward import answer
from tests.runs.test_reward import run_command, true_score
from tests.runs.test_train import LORA, config_of

from siredon import release
from siredon.errors import CheckpointError, DataError
from siredon.evaluate.figures import show_change

ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}
#: Keys of each method; those of KTO and of steps have rows of their own.
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"rl": "dpo", "rl_beta": 0.3},
    "ipo": {"rl": "ipo"},
    "aot": {"rl": "dpo", "dpo_loss_type": ["aot"]},
    "simpo": {"rl": "simpo", "rl_beta": 2.0},
    "orpo": {"rl": "orpo"},
    "kto": {"rl": "kto"},
    "reward": {"rl": None, "reward_model": True},
    "steps": {"rl": None, "process_reward_model": True},
}
#: The loss of the start, where policy and reference are one.
FIRST = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}
LEARNS = {"max_steps": 4, "learning_rate": 5e-3}
#: Settings of a training that end with a validation.
VALIDATES = {**LEARNS, "val_set_size": 6, "eval_steps": 4}


@pytest.fixture
def write_judged(write_config: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes a config of a method over 24 rows of its own; keyword arguments change keys."""
    write = pair_writer(write_config, tmp_path)
    own = {
        "kto": ("judged.jsonl", judged_rows(), "chat_template.default"),
        "steps": ("steps.jsonl", [answer(number) for number in range(24)], "stepwise_supervised"),
    }

    def write_one(method: str, name: str = "config", **changes: Any) -> Path:
        keys = {**METHODS[method], **VALIDATES, "datasets": [entry_of(tmp_path, method)], **changes}
        return write(name, **keys)

    for file, rows, _ in own.values():
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_one


def entry_of(folder: Path, method: str) -> dict[str, str]:
    """The data set of a method."""
    file = {"kto": "judged.jsonl", "steps": "steps.jsonl"}.get(method, "pairs.jsonl")
    kind = {"steps": "stepwise_supervised"}.get(method, "chat_template.default")
    return {"path": str(folder / file), "type": kind}


def validations_of(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What validations measured, without `eval_`, and without times."""
    found = [row for row in rows if "eval_loss" in row]
    times = ("runtime", "samples_per_second", "steps_per_second")
    names = [
        name for name in found[0] if name.startswith("eval_") and name.removeprefix("eval_") not in times
    ]
    return [{name.removeprefix("eval_"): row[name] for name in names} for row in found]


def measures_of(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in ("model", "split", "source", "rows")}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("method", METHODS)
def test_start_and_tuned_are_the_first_and_the_last_validation(
    write_judged: Any, tmp_path: Path, method: str, adapter: str
):
    path = write_judged(method, **ADAPTERS[adapter])
    first, last = validations_of(train(path))
    start, tuned = judge(config_of(path), which="both")
    assert [row["model"] for row in (start, tuned)] == ["start", "tuned"]
    assert start["rows"] == tuned["rows"] == 6
    assert measures_of(tuned) == last
    assert measures_of(start) == first
    assert last["loss"] != pytest.approx(first["loss"], abs=1e-3)
    if method in FIRST:
        assert start["loss"] == pytest.approx(FIRST[method], rel=1e-6)
        assert all(
            value == 0 for name, value in start.items() if name in ("rewards/chosen", "rewards/margins", "kl")
        )
        assert abs(tuned["rewards/margins"]) > 1e-3
    # By the folder of the run, where of whole weights less is known of their training
    (again,) = judge(target_of(tmp_path / "config"))
    assert measures_of(again) == last


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_reference_that_the_file_names_is_the_one_of_the_training(
    write_judged: Any, model_folder: Path, tmp_path: Path, method: str
):
    other = move_model(model_folder, tmp_path / "other")
    path = write_judged(method, **LORA, reference_model=str(other))
    first, last = validations_of(train(path))
    start, tuned = judge(config_of(path), which="both")
    assert abs(first["rewards/chosen"]) > 1e-3
    assert measures_of(start) == pytest.approx(first, rel=1e-6)
    assert measures_of(tuned) == pytest.approx(last, rel=1e-6)
    if method == "dpo":  # Pair by pair it is the same reference
        found = read_samples(tmp_path / "config" / "evaluation")
        for name, wanted_means in (("start", first), ("tuned", last)):
            mean = sum(one[name]["rewards/margins"] for one in found) / 6
            assert mean == pytest.approx(wanted_means["rewards/margins"], abs=1e-5)


def test_before_a_training_the_start_is_measured_and_nothing_else(write_judged: Any):
    config = config_of(write_judged("dpo", **LORA))
    (start,) = judge(config, which="base")
    assert start["model"] == "start"
    assert start["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert start["rewards/chosen"] == start["rewards/rejected"] == 0
    with pytest.raises(CheckpointError, match="holds no adapter"):
        release.evaluate(config, wanted(which="both"))
    with pytest.raises(CheckpointError, match="holds no trained model"):
        release.evaluate(config_of(write_judged("dpo", "whole")), wanted())


def wanted(**options: Any) -> Any:
    from siredon.evaluate.wanted import Evaluation

    return Evaluation(**options)


STARTS: dict[str, dict[str, Any]] = {
    "goes on": {"adapter": "lora"},
    "pissa": {**LORA, "peft_init_lora_weights": "pissa"},
    "not nothing": {**LORA, "peft_init_lora_weights": False},
    "dora": {**LORA, "peft_use_dora": True},
    "layers beside it": {**LORA, "lora_modules_to_save": ["embed_tokens", "lm_head"]},
    "frozen": LORA,
    "ia3": {"adapter": "ia3", "lora_target_linear": True},
}


@pytest.mark.parametrize("start", STARTS)
def test_the_reference_is_what_the_training_started_from(write_judged: Any, tmp_path: Path, start: str):
    """Never the trained weights, nor the base where the training began with an adapter; merged or not."""
    keys = dict(STARTS[start])
    if start in ("goes on", "frozen"):
        train(write_judged("dpo", "earlier", **LORA))
        earlier = str(tmp_path / "earlier")
        keys |= {"lora_model_dir": earlier} if start == "goes on" else {"lora_frozen_dirs": [earlier]}
    path = write_judged("dpo", **keys)
    first, last = validations_of(train(path))
    exact = start in ("goes on", "frozen", "ia3")
    error = {"abs": 0, "rel": 0} if exact else {"abs": 2e-3, "rel": 1e-4}
    begun, tuned = judge(config_of(path), which="both")
    assert measures_of(tuned) == pytest.approx(last, **error)
    assert measures_of(begun) == pytest.approx(first, **error)
    assert begun["rewards/margins"] == 0
    assert abs(tuned["rewards/margins"]) > 0.01
    release.merge_lora(config_of(path))
    (merged,) = judge(target_of(tmp_path / "config" / "merged"))
    assert measures_of(merged) == pytest.approx(last, abs=5e-3, rel=1e-3)
    assert merged["rewards/margins"] == pytest.approx(last["rewards/margins"], abs=1e-3)


def test_a_model_from_elsewhere_is_held_against_its_base_once_that_is_known(
    write_judged: Any, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    given = {"rl": "dpo", "rl_beta": 0.3, "bf16": "false", "datasets.0.path": str(tmp_path / "pairs.jsonl")}
    given |= {"val_set_size": 6, "sequence_len": 256, "datasets.0.type": "chat_template.default"}
    for name, keys in ADAPTERS.items():
        path = write_judged("dpo", name, **keys)
        last = validations_of(train(path))[-1]
        folder = tmp_path / f"their-{name}"
        shutil.copytree(tmp_path / name, folder)
        (folder / "run.json").unlink()
        if name == "lora":  # Its own file names the base
            (found,) = judge(target_of(folder, **given), output=tmp_path / "results")
        else:
            for which in ("tuned", "both"):
                with pytest.raises(CheckpointError, match=r"nothing in .* says which that is") as caught:
                    release.evaluate(target_of(folder, **given), wanted(which=which))
                assert "base_model=FOLDER" in caught.value.fix
            config = target_of(folder, **given, base_model=str(model_folder))
            (found,) = judge(config, output=tmp_path / "results")
        assert measures_of(found) == pytest.approx(last, abs=1e-3)
        assert not (folder / "evaluation").exists()


def test_a_judge_from_elsewhere_needs_no_start(
    write_judged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = write_judged("reward", **LORA)
    last = validations_of(train(path))[-1]
    release.merge_lora(config_of(path))
    folder = tmp_path / "config" / "merged"
    (merged,) = judge(target_of(folder))
    assert measures_of(merged) == pytest.approx(last, abs=1e-3)
    both = judge(target_of(folder), which="both")  # Its record says how it began
    assert measures_of(both[0]) == measures_of(judge(config_of(path), which="base")[0])
    (folder / "run.json").unlink()
    given = {"bf16": "false", "datasets.0.path": str(tmp_path / "pairs.jsonl"), "val_set_size": 6}
    given |= {"sequence_len": 256, "datasets.0.type": "chat_template.default"}
    (found,) = judge(target_of(folder, **given), output=tmp_path / "results")
    assert measures_of(found) == pytest.approx(last, abs=1e-3)
    with pytest.raises(CheckpointError, match="start is not known"):
        release.evaluate(target_of(folder, **given), wanted(which="both"))


@pytest.mark.parametrize("method", ["dpo", "kto", "reward", "steps"])
def test_each_data_set_has_what_it_has_alone(write_judged: Any, tmp_path: Path, method: str):
    """Neither packing nor the size of batches changes it, nor what else is measured with it."""
    entry = entry_of(tmp_path, method)
    lines = Path(entry["path"]).read_text().splitlines(keepends=True)
    for name, part in {"near.jsonl": lines[:7], "far.jsonl": lines[12:17]}.items():
        (tmp_path / name).write_text("".join(part))
    files = [{**entry, "path": str(tmp_path / name)} for name in ("near.jsonl", "far.jsonl")]
    keys = {"val_set_size": 0, "test_datasets": files}
    path = write_judged(method, **LORA, **keys)
    last = validations_of(train(path))[-1]
    found = judge(config_of(path))
    assert [(row["source"], row["rows"]) for row in found] == [
        ("all", 12),
        ("near.jsonl", 7),
        ("far.jsonl", 5),
    ]
    assert measures_of(found[0]) == last
    for way in (
        {"eval_batch_size": 5},
        {"eval_sample_packing": "true"},
        {"eval_sample_packing": "true", "eval_batch_size": 3},
    ):
        again = judge(target_of(tmp_path / "config", **way))
        for one, other in zip(found, again, strict=True):
            assert measures_of(one) == pytest.approx(measures_of(other), abs=1e-4), way
    for row, file in zip(found[1:], files, strict=True):
        over = {"test_datasets": json.dumps([file])}
        (alone,) = judge(target_of(tmp_path / "config", **over), output=tmp_path / "alone")
        skipped = ("kl", "loss") if method == "kto" else ()  # There is one divergence of all rows
        for name, value in measures_of(alone).items():
            assert name in skipped or row[name] == pytest.approx(value, abs=1e-5), name
    if method == "kto":
        assert {row["kl"] for row in found} == {last["kl"]}


def test_what_is_written_and_shown(write_judged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_judged("reward", **LORA)
    train(path)
    capsys.readouterr()
    assert run_command(["evaluate", str(path), "--compare", "--split", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split() for line in lines if "difference" in line and ": margin " not in line]
    assert titles == [
        [f"{split}:", count, "pairs", "start", "tuned", "difference"]
        for split, count in (("training", "18"), ("validation", "6"))
    ]
    folder = tmp_path / "config"
    results = json.loads((folder / "evaluation" / "results.json").read_text())["results"]
    tuned = results[-1]
    _, shown = [line.split() for line in lines if line.startswith("rewards/margins")]
    change = tuned["rewards/margins"] - results[1]["rewards/margins"]
    assert shown[2:] == [f"{tuned['rewards/margins']:.4f}", f"{change:+.4f}"]
    summary = list(csv.reader((folder / "eval_summary.csv").read_text().splitlines()))
    assert summary[:2] == [
        ["metric", "training", "validation"],
        ["loss", *map(str, (results[2]["loss"], tuned["loss"]))],
    ]
    assert (folder / "evaluation" / "results.png").stat().st_size
    release.card(config_of(path), force=True)
    card = (folder / "README.md").read_text()
    assert f"| tuned | validation | all | 6 | {tuned['loss']:.4f} |" in card
    assert "perplexity" not in card


def test_what_a_model_writes_is_not_asked_of_judged_rows(write_judged: Any, tmp_path: Path, capsys: Any):
    """The error says how it can be: that is tried."""
    path = write_judged("dpo", **LORA)
    train(path)
    with pytest.raises(DataError, match="`--metric chrf` compares what a model writes") as caught:
        release.evaluate(config_of(path), wanted(metrics=("chrf",)))
    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(row) + "\n")
    import shlex

    advice = caught.value.fix.partition("siredon ")[2].replace("CONFIG", str(path)).replace("FILE", str(rows))
    words = shlex.split(advice.replace("chrf", "exact_match"))
    assert run_command([*words, "eval_max_new_tokens=4"]) == 0
    assert "exact_match" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"a model that judges .* writes no answer"):
        release.evaluate(config_of(write_judged("reward")), wanted(metrics=("chrf",)))


def test_a_checkpoint_and_references_computed_ahead(write_judged: Any, tmp_path: Path):
    path = write_judged(
        "dpo", precompute_ref_log_probs=True, save_strategy="steps", save_steps=2, eval_steps=2
    )
    _, middle, last = validations_of(train(path))
    (found,) = judge(config_of(path))
    assert measures_of(found) == pytest.approx(last, abs=1e-3)
    (found,) = judge(target_of(tmp_path / "config" / "checkpoint-2"), output=tmp_path / "middle")
    assert measures_of(found) == pytest.approx(middle, abs=1e-3)


def test_a_loss_that_matches_pairs_is_one_over_held_out_pairs(write_judged: Any, tmp_path: Path):
    """Whether they are held out of the training rows, where both lie in one table, or have a file of their own."""
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines(keepends=True)
    for name, part in {"own.jsonl": lines[18:], "rest.jsonl": lines[:18]}.items():
        (tmp_path / name).write_text("".join(part))
    files = {
        name: {**entry_of(tmp_path, "aot"), "path": str(tmp_path / name)}
        for name in ("own.jsonl", "rest.jsonl")
    }
    train(write_judged("aot", "config", **LORA))
    apart = {"val_set_size": 0, "test_datasets": [files["own.jsonl"]], "datasets": [files["rest.jsonl"]]}
    keys = {"shuffle_merged_datasets": False, "curriculum_sampling": True}
    one = validations_of(train(write_judged("aot", "one", **LORA, **keys)))
    other = validations_of(train(write_judged("aot", "other", **LORA, **keys, **apart)))
    assert one[-1] == pytest.approx(other[-1], abs=1e-4)


def score_alone(model: Any, sample: Any) -> float:
    """The log-probability of an answer by plain transformers, one answer at a time, all logits."""
    from siredon.data.types import IGNORE

    ids = torch.tensor([sample.input_ids.tolist()])
    labels = sample.labels.tolist()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    places = [place for place in range(1, len(labels)) if labels[place] != IGNORE]
    return sum(float(expected[place - 1, labels[place]]) for place in places)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pair_samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("method", ["dpo", "ipo", "simpo", "orpo"])
def test_samples_have_the_log_probabilities_of_both_models(
    write_judged: Any, model_folder: Path, tmp_path: Path, method: str, adapter: str
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from siredon.evaluate.rows import prepare_rows
    from siredon.model.tokenizer import load_tokenizer

    # Packed, the pairs are run in another order
    path = write_judged(method, **ADAPTERS[adapter], eval_sample_packing=True, sample_packing=True)
    train(path)
    config = config_of(path)
    results = {row["model"]: row for row in judge(config, which="both")}
    found = read_samples(tmp_path / "config" / "evaluation")
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    folder = tmp_path / "config"
    models = {"start": base}
    for name in ("start", "tuned"):
        if name == "tuned" and adapter == "lora":
            models[name] = PeftModel.from_pretrained(base, folder)
        elif name == "tuned":
            models[name] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = models[name].eval()
        [rows] = prepare_rows(config, load_tokenizer(config.tokenizer, config.model), "validation")
        pairs = [rows.packs.table.take(int(index)) for index in sorted(rows.packs.packs.indices)]
        assert len(found) == len(pairs) == 6
        for one, pair in zip(found, pairs, strict=True):
            chosen, rejected = (score_alone(model, side) for side in pair)
            assert one[name]["logps/chosen"] == pytest.approx(chosen, abs=1e-4)
            assert one[name]["logps/rejected"] == pytest.approx(rejected, abs=1e-4)
            assert one[name]["logps/margins"] == pytest.approx(chosen - rejected, abs=1e-4)
        for measure in ("logps/chosen", "logps/rejected", "rewards/margins"):
            mean = sum(one[name][measure] for one in found) / 6
            assert mean == pytest.approx(results[name][measure], abs=1e-4)
    for one in found:
        change = one["tuned"]["logps/margins"] - one["start"]["logps/margins"]
        assert one["change"] == pytest.approx(change)
        assert abs(change) > 1e-3
        if method in ("dpo", "ipo"):
            beta = config.preference.beta
            assert one["start"]["rewards/margins"] == pytest.approx(0, abs=1e-5)
            assert one["tuned"]["rewards/margins"] == pytest.approx(beta * change, abs=1e-4)
    # Texts are those of the rows
    given = {
        row["chosen"]: row for row in map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    }
    for one in found:
        row = given[one["chosen"]]
        assert one["rejected"] == row["rejected"]
        assert row["messages"][0]["content"] in one["prompt"]
        assert one["chosen"] not in one["prompt"]
    assert [(one["split"], one["source"], one["row"]) for one in found] == [
        ("validation", "pairs.jsonl", row) for row in range(6)
    ]


def test_samples_of_a_reward_model_have_scores(write_judged: Any, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = write_judged("reward", **LORA)
    train(path)
    results = judge(config_of(path), which="both")
    folder = tmp_path / "config"
    found = read_samples(folder / "evaluation")
    assert len(found) == 6
    for name, result in zip(("start", "tuned"), results, strict=True):
        for measure in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
            mean = sum(one[name][measure] for one in found) / 6
            assert mean == pytest.approx(result[measure], abs=1e-4)
    release.merge_lora(config_of(path))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for one in found:
        [row] = [row for row in rows if row["chosen"] == one["chosen"]]
        question = row["messages"][0]["content"]
        for side in ("chosen", "rejected"):
            assert one["tuned"][f"rewards/{side}"] == pytest.approx(
                true_score(model, tokenizer, row[side], question), abs=1e-3
            )


def test_samples_are_counted_shown_and_taken_away(
    write_judged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = write_judged("dpo", **LORA)
    train(path)
    capsys.readouterr()
    words = ["evaluate", str(path)]
    assert run_command([*words, "--compare", "--answers", "4", "--split", "all"]) == 0
    folder = tmp_path / "config" / "evaluation"
    found = read_samples(folder)
    places = [(one["split"], one["row"]) for one in found]
    assert places == [(split, row) for split in ("training", "validation") for row in range(4)]
    shown = capsys.readouterr().out
    ours = sorted((one for one in found if one["split"] == "validation"), key=lambda one: one["change"])
    tables = shown.partition("validation: margin ")[2]
    rose, fell = ([one for one in ours if sign * one["change"] > 0] for sign in (1, -1))
    assert rose
    for one in (*rose[-3:], *fell[:3]):
        assert show_change(one["change"]) in tables
        assert f"  chosen: {one['chosen']}" in tables
    assert "results: " in tables
    text = (folder / "pair_samples.md").read_text()
    assert text.count("## validation, pair ") == 4
    assert all(one["prompt"] in text for one in found)
    # Of one model alone there are none, nor are those of an earlier call kept
    assert run_command(words) == 0
    assert "margin rose" not in capsys.readouterr().out
    assert not [*folder.glob("pair_samples.*")]
    assert run_command([*words, "--answers", "4"]) == 2
    # Answers that are good or bad are no pairs
    path = write_judged("kto", "other", **LORA)
    train(path)
    assert run_command(["evaluate", str(path), "--compare"]) == 0
    assert not [*(tmp_path / "other" / "evaluation").glob("pair_samples.*")]
    assert run_command(["evaluate", str(path), "--compare", "--answers", "4"]) == 2
