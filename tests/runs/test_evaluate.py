"""`evaluate`: the loss of training's own validation, whatever the batch and the packing, and what files it leaves."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import ROOT
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of

from siredon import pipeline, release
from siredon.config.artifact import load_target
from siredon.config.schema import Config
from siredon.errors import CheckpointError, DataError
from siredon.evaluate.wanted import Benchmark, Evaluation
from siredon.selftest.truth import find_truth


def judge(config: Config, **wanted: Any) -> list[dict[str, Any]]:
    release.evaluate(config, Evaluation(**wanted))
    folder = wanted.get("output") or config.checkpoint.output_folder / "evaluation"
    return json.loads((folder / "results.json").read_text())["results"]


def target_of(folder: Path, **layer: Any) -> Config:
    from siredon.config.layers import Layer
    from siredon.config.overrides import split_words

    words = [f"{name}={value}" for name, value in layer.items()]
    _, over = split_words([str(folder), *words])
    assert isinstance(over, Layer)
    return load_target(str(folder), [over])[0]


@pytest.fixture
def two_sources(write_config: Any, tmp_path: Path) -> dict[str, Any]:
    """Validation rows of two files, of very unequal length."""
    rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[24:32]
    (tmp_path / "short.jsonl").write_text("\n".join(rows[:5]) + "\n")
    talk = [message for row in rows for message in json.loads(row)["messages"] if message["role"] != "system"]
    (tmp_path / "long.jsonl").write_text(json.dumps({"messages": talk[:8]}) + "\n" + rows[6] + "\n")
    entries = [
        {"path": str(tmp_path / name), "type": "chat_template"} for name in ("short.jsonl", "long.jsonl")
    ]
    return {"test_datasets": entries, "sequence_len": 512}


def test_it_is_the_loss_of_the_run_and_of_the_slow_truth(
    write_config: Any, tmp_path: Path, two_sources: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    config = config_of(
        write_config(**LORA, **two_sources, max_steps=3, evals_per_epoch=1, learning_rate=2e-2)
    )
    pipeline.train(config)
    out = tmp_path / "out"
    last = [row["eval_loss"] for row in metrics_of(out) if "eval_loss" in row][-1]
    whole, short, long = judge(target_of(out))
    assert [row["source"] for row in (whole, short, long)] == ["all", "short.jsonl", "long.jsonl"]
    assert whole["loss"] == last
    summary = list(csv.reader((out / "eval_summary.csv").read_text().splitlines()))
    assert summary[0] == ["metric", "training", "validation"]
    assert (summary[1][0], float(summary[1][2])) == ("loss", whole["loss"])
    shown = capsys.readouterr().out
    assert f"{whole['loss']:.4f}" in shown
    # Against fp64, one row at a time, of the model that the adapter is merged into
    release.merge_lora(config)
    from siredon.evaluate.rows import prepare_rows
    from siredon.model.tokenizer import load_tokenizer

    [rows] = prepare_rows(config, load_tokenizer(config.tokenizer, config.model), "validation")
    samples = [rows.packs.table[index] for index in range(len(rows.packs.table))]
    for found, source in ((whole, None), (short, 0), (long, 1)):
        mine = [sample for sample in samples if source is None or sample.source == source]
        truth = find_truth(out / "merged", mine)
        assert found["target_tokens"] == truth.num_targets
        assert found["loss"] == pytest.approx(truth.loss, abs=2e-6)
    # Neither the batch nor packing, nor merging, changes it
    ways = (
        {"eval_batch_size": 3},
        {"eval_sample_packing": "true"},
        {"eval_sample_packing": "true", "eval_batch_size": 2},
    )
    for way in ways:
        again = judge(target_of(out, **way))
        assert [row["loss"] for row in again] == pytest.approx(
            [row["loss"] for row in (whole, short, long)], abs=2e-6
        )
    every = judge(target_of(out), split="all")
    assert [row["split"] for row in every] == ["training", *["validation"] * 3]
    summary = list(csv.reader((out / "eval_summary.csv").read_text().splitlines()))
    assert [float(value) for value in summary[1][1:]] == [every[0]["loss"], last]
    merged = judge(target_of(out / "merged"))
    assert merged[0]["loss"] == pytest.approx(last, abs=2e-6)


def test_answers_are_scored_while_training_as_they_are_afterwards(
    write_config: Any, tmp_path: Path, two_sources: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    keys = {**LORA, **two_sources, "max_steps": 4, "eval_steps": 2, "learning_rate": 2e-2}
    scored = {"do_causal_lm_eval": True, "eval_causal_lm_metrics": ["chrf", "ter"], "eval_max_new_tokens": 12}
    plain = config_of(write_config("plain.yml", **keys, output_dir=str(tmp_path / "plain")))
    pipeline.train(plain)
    best = {"metric_for_best_model": "eval_chrf", "save_strategy": "best", "save_steps": ...}
    out, packed = tmp_path / "out", {"sample_packing": True}
    for layout in ({}, packed):
        config = config_of(write_config(**{**keys, **scored, **best, **layout}))
        assert config.checkpoint.rises
        pipeline.train(config)
        rows = [row for row in metrics_of(out) if "eval_loss" in row]
        assert f"chrf {rows[-1]['eval_chrf']:.4g}  ter {rows[-1]['eval_ter']:.4g}" in capsys.readouterr().err
        newest = max(out.glob("checkpoint-*"), key=lambda folder: folder.name)
        state = json.loads((newest / "trainer_state.json").read_text())
        assert state["best_metric"] == max(row["eval_chrf"] for row in rows if row["step"])
        if layout != packed:
            # To write changes nothing in the training
            assert [row["loss"] for row in metrics_of(tmp_path / "plain") if "loss" in row] == [
                row["loss"] for row in metrics_of(out) if "loss" in row
            ]
        [whole, *_] = judge(target_of(out), metrics=("chrf", "ter"))
        for name in ("chrf", "ter"):
            assert rows[-1][f"eval_{name}"] == pytest.approx(whole[name])
        shutil.rmtree(out)


def test_two_ranks_score_what_one_does(write_config: Any, tmp_path: Path, two_sources: dict[str, Any]):
    keys = {**LORA, **two_sources, "max_steps": 1, "eval_steps": 1, "save_strategy": "no"}
    keys |= {"do_causal_lm_eval": True, "eval_max_new_tokens": 12, "eval_batch_size": 2}
    one = write_config("one.yml", **keys, gradient_accumulation_steps=4, output_dir=str(tmp_path / "one"))
    two = write_config("two.yml", **keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"))
    pipeline.train(config_of(one))
    train_on_two_ranks(two)
    first, second = (
        next(row for row in metrics_of(tmp_path / name) if "eval_loss" in row) for name in ("one", "two")
    )
    for name in ("eval_sacrebleu", "eval_ter", "eval_chrf"):
        assert first[name] == pytest.approx(second[name]), (first, second)


ANSWERS = {"Who are you?": "I am Siredon.", "What is the sea, then?": "Salt water."}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The configuration of an adapter that knows two answers."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in ANSWERS.items()
    ]
    (folder / "told.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        **LORA,
        "base_model": str(model_folder),
        "lora_r": 32,
        "lora_alpha": 64,
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
        "datasets": [{"path": str(folder / "told.jsonl"), "type": "chat_template"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "sequence_len": 128,
        "micro_batch_size": 2,
        "max_steps": 40,
        "learning_rate": 1e-2,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 40,
        "output_dir": str(folder / "out"),
    }
    (folder / "config.yml").write_text(yaml.safe_dump(values))
    pipeline.train(config_of(folder / "config.yml"))
    return folder / "config.yml"


def test_base_and_tuned_answer_side_by_side(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "letters.py").write_text(
        "def count(predictions, references):\n"
        "    return {'right': sum(map(str.__eq__, predictions, references)), 'of': len(references)}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = config_of(taught)
    out = config.checkpoint.output_folder
    base, tuned = judge(config, which="both", metrics=("exact_match", "letters.count"))
    assert (base["model"], tuned["model"]) == ("base", "tuned")
    assert (base["exact_match"], base["right"]) == (0, 0)
    assert (tuned["exact_match"], tuned["right"], tuned["of"]) == (1, 2, 2)
    assert tuned["loss"] < 0.1 < base["loss"]
    assert base["loss"] == judge(config, which="base", output=tmp_path / "alone")[0]["loss"]
    lines = [json.loads(line) for line in (out / "evaluation/answers.jsonl").read_text().splitlines()]
    assert {line["predicted"] for line in lines if line["model"] == "tuned"} == set(ANSWERS.values())
    assert lines[0]["prompt"].endswith("<|im_start|>assistant\n")
    # One prompt at a time: the same words, also of a model that has no answer
    judge(target_of(out, eval_batch_size=1), which="both", metrics=("exact_match",), output=tmp_path / "one")
    assert (tmp_path / "one/answers.jsonl").read_text() == (out / "evaluation/answers.jsonl").read_text()
    shown = capsys.readouterr().out
    assert "exact_match" in shown
    for name in ("results.csv", "results.png"):
        assert (out / "evaluation" / name).stat().st_size
    with pytest.raises(DataError, match="no validation rows"):
        judge(config, split="validation")


CHOICE = """
task: who_choice
dataset_path: json
dataset_kwargs: {data_files: questions.jsonl}
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""
WRITE = """
task: who_write
dataset_path: json
dataset_kwargs: {data_files: questions.jsonl}
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
target_delimiter: ""
generation_kwargs: {until: ["\\n"], max_gen_toks: 16}
metric_list: [{metric: exact_match}]
"""


def test_tasks_of_ones_own_are_asked_of_base_and_tuned(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    wrong = ["I am a stone.", "Dry sand.", "Seven."]
    rows = [
        {"question": question, "choices": [*wrong[:place], answer, *wrong[place:]], "answer": place}
        for place, (question, answer) in enumerate(ANSWERS.items())
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/choice.yaml").write_text(CHOICE)
    (tmp_path / "tasks/write.yaml").write_text(WRITE)
    config = target_of(config_of(taught).checkpoint.output_folder)
    tasks = ("who_choice", "who_write")
    asked = Benchmark("both", tasks, (Path("tasks"),), chats=True, output=tmp_path / "results")
    release.lm_eval(config, asked)
    found = json.loads((tmp_path / "results/results.json").read_text())["results"]
    values = {(mark["model"], mark["task"]): mark["value"] for mark in found}
    assert values["tuned", "who_choice"] == values["tuned", "who_write"] == 1
    assert values["base", "who_write"] == 0
    assert values["base", "who_choice"] == choose_by_hand(config, rows)
    assert {mark["num_questions"] for mark in found} == {2}
    shown = capsys.readouterr().out
    assert "difference" in shown
    assert "+1.0000" in shown
    answers = (tmp_path / "results/answers_tuned_who_write.jsonl").read_text()
    said = [json.loads(line) for line in answers.splitlines()]
    assert [line["filtered_resps"] for line in said] == [[answer] for answer in ANSWERS.values()]

    # After training, the task named by its file
    values = yaml.safe_load(taught.read_text())
    values |= {
        "lm_eval_tasks": ["tasks/choice.yaml:0"],
        "max_steps": 1,
        "output_dir": str(tmp_path / "again"),
    }
    (tmp_path / "again.yml").write_text(yaml.safe_dump(values))
    pipeline.train(config_of(tmp_path / "again.yml"))
    [results] = (tmp_path / "again/lm_eval_results").glob("*/results.json")
    [mark] = json.loads(results.read_text())["results"]
    assert (mark["model"], mark["task"], mark["num_fewshot"]) == ("tuned", "who_choice", 0)


def choose_by_hand(config: Config, rows: list[dict[str, Any]]) -> float:
    """How often the base prefers the right choice, its tokens' logarithms summed in fp64."""
    from transformers import AutoTokenizer

    from siredon.selftest.truth import read_exact_model

    folder = Path(config.model.base_model)
    model, tokenizer = read_exact_model(folder), AutoTokenizer.from_pretrained(folder)
    right = 0
    for row in rows:
        chat = [{"role": "user", "content": row["question"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        sums = []
        for choice in row["choices"]:
            ids = torch.tensor([start + tokenizer(choice, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                chances = model(ids, use_cache=False).logits[0].log_softmax(-1)
            sums.append(chances[:-1].gather(1, ids[0, 1:, None])[len(start) - 1 :].sum().item())
        right += sums.index(max(sums)) == row["answer"]
    return right / len(rows)


def test_tasks_that_are_not_there_are_named(taught: Path, tmp_path: Path):
    pytest.importorskip("lm_eval")
    config = config_of(taught)
    with pytest.raises(DataError, match="no task is named"):
        release.lm_eval(config, Benchmark())
    with pytest.raises(DataError, match="no such folder"):
        release.lm_eval(config, Benchmark(tasks=("a",), include=(tmp_path / "none",)))


def test_a_model_from_elsewhere_is_judged_on_rows_that_are_named(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    row = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]}
    )
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    monkeypatch.chdir(tmp_path)
    config = target_of(model_folder, **{"datasets.0.path": "rows.jsonl", "bf16": "false"})
    before = {path.name for path in model_folder.iterdir()}
    [found] = judge(config, output=tmp_path / "results")
    assert found["split"] == "training"
    assert found["target_tokens"] > 0
    release.evaluate(config, Evaluation())
    assert (tmp_path / "evaluation" / model_folder.name / "eval_summary.csv").is_file()
    assert {path.name for path in model_folder.iterdir()} == before
    with pytest.raises(CheckpointError, match="no base to compare"):
        judge(config, which="both")
    assert torch.is_grad_enabled()
