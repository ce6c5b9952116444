"""A run is made again from its record, from another folder, and what is not the same is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.runs.test_train import LORA, config_of, weights_of

from siredon import pipeline
from siredon.config.sections.batch import BatchSection
from siredon.errors import CheckpointError, TrainingError
from siredon.redaction import redact_values
from siredon.train.compare import compare_facts
from siredon.train.determinism import deterministic_run
from siredon.train.reproduce import Repeat, find_differences


def check(run: Path) -> None:
    pipeline.reproduce(Repeat(run, run.with_name("again"), only_checks=True, force=False))


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = run / "run.json"
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


@pytest.mark.long
def test_a_resumed_run_with_relative_paths_is_made_again_and_what_changed_is_refused(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    keys = {**LORA, "lora_dropout": 0.1, "deterministic": True, "output_dir": "out", "save_steps": 2}
    path = write_config(**keys, dataset_prepared_path="prepared")
    values = yaml.safe_load(path.read_text())
    values["datasets"][0]["path"] = "rows.jsonl"
    path.write_text(yaml.safe_dump(values))
    run = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NCCL_PASSWORD", "swordfish")
    monkeypatch.setenv("OMP_DISPLAY_AFFINITY", "no swordfish")
    pipeline.train(config_of(path))
    path.write_text(yaml.safe_dump({**values, "resume_from_checkpoint": "out/checkpoint-2"}))
    pipeline.train(config_of(path))
    record = json.loads((run / "run.json").read_text())
    assert [(turn["step"], turn["changed"]) for turn in record["resumes"]] == [(2, [])]
    assert record["environment"]["OMP_DISPLAY_AFFINITY"] == "no ***"
    assert not [file for file in run.rglob("*") if file.is_file() and b"swordfish" in file.read_bytes()]
    path.unlink()  # The record is enough

    other = tmp_path / "elsewhere"
    other.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "siredon", "reproduce", str(run), "--output-dir", "new"],
        cwd=other,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "identical to the bit: adapter_model.safetensors, and every metric" in done.stdout, done.stderr
    assert done.returncode == 0
    old, new = weights_of(run), weights_of(other / "new")
    assert all(torch.equal(old[name], new[name]) for name in old)

    # From here on, in this process, from another folder
    monkeypatch.chdir(other)
    check(run)
    assert "the same: " in capsys.readouterr().out

    kept = (run / "run.json").read_text()
    change(run, lambda record: record["versions"].update(peft="0.0.1"))
    change(run, lambda record: record["weights"].update(base_model="full:0"))
    with pytest.raises(TrainingError) as refused:
        check(run)
    certain, possible = str(refused.value).split("may change the result")
    assert "weights.base_model  full:0 -> full:" in certain
    assert "versions.peft       0.0.1 -> " in possible
    (run / "run.json").write_text(kept)

    rows = tmp_path / "rows.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("I", "You", 1))
    with pytest.raises(TrainingError, match=r"1 thing .*\n.*\n  data\.sources\.1: rows\.jsonl"):
        check(run)
    rows.unlink()
    with pytest.raises(TrainingError, match=r"data\.rows +read -> .*rows\.jsonl"):
        check(run)
    rows.write_text(text)

    model = Path(values["base_model"])
    model.rename(model.with_name("away"))
    try:
        with pytest.raises(TrainingError, match=r"weights\.base_model +full:\S+ -> not there any more"):
            check(run)
    finally:  # It is the model of all tests
        model.with_name("away").rename(model)

    # Another seed in the record makes another run, and the first step that differs is told
    change(run, lambda record: record["given"].update(seed=7))
    assert not pipeline.reproduce(Repeat(run, tmp_path / "forced", only_checks=False, force=True))
    shown = capsys.readouterr().out
    assert "metrics: the first that differs is at step 1: " in shown
    assert "numbers differ, by at most" in shown

    change(run, lambda record: record.pop("finished"))
    with pytest.raises(CheckpointError, match="has not ended"):
        pipeline.reproduce(Repeat(run, tmp_path / "x", only_checks=False, force=False))
    change(run, lambda record: (record.update(hidden=["base_model"]), record["given"].update(seed=42)))
    check(run)  # The value has been written back
    change(run, lambda record: record["given"].update(base_model="https://***@host/x"))
    with pytest.raises(CheckpointError, match="base_model had a secret"):
        check(run)
    change(run, lambda record: record.pop("given"))
    with pytest.raises(CheckpointError, match="does not say enough"):
        check(run)


@pytest.mark.long
def test_a_run_of_two_processes_is_made_again_by_two_and_refused_by_one(write_config: Any, tmp_path: Path):
    from tests.runs.test_ranks import run_on_two_ranks, train_on_two_ranks

    train_on_two_ranks(write_config(**LORA, lora_dropout=0.1, save_strategy="no"))
    run = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"changes the result:\n +num_ranks +2 -> 1"):
        check(run)
    done = run_on_two_ranks("reproduce", str(run))
    assert done.stdout.count("identical to the bit: adapter_model.safetensors, and every metric") == 1


def test_what_was_set_gives_the_same_config_again(write_config: Any, tmp_path: Path):
    from siredon.config.load import load_config
    from siredon.train.reproduce import rebuild_config

    path = write_config(
        chat_template="jinja",
        chat_template_jinja="{{ x }} $${HOME} \u2028 \U0001f600 $$${A:-b}",
        dynamic_checkpoint={"enabled": True},
        lora_target_modules="q_proj",
        save_steps=0.5,
        **{**LORA, "lora_target_linear": False},
    )
    config, _ = load_config(str(path))
    repeat = Repeat(tmp_path, config.checkpoint.output_folder, only_checks=True, force=False)
    again = rebuild_config({"given": json.loads(json.dumps(config.given))}, repeat)
    assert again == config
    assert again.given == config.given
    assert config.origin.sources[0].text == path.read_text()


def test_differences_are_sorted_by_what_hangs_on_them():
    then = {
        "versions": {"a": "1"},
        "num_ranks": 1,
        "hardware": {"num_cores": 2},
        "given": {"output_dir": "x"},
    }
    now = {
        "versions": {},
        "num_ranks": 2,
        "hardware": {"num_cores": 4},
        "given": {"output_dir": "y", "seed": 1},
    }
    found = [(row.name, row.then, row.now, row.weight) for row in compare_facts(then, now)]
    assert found == [
        ("num_ranks", "1", "2", "certain"),
        ("given.seed", "nothing", "1", "certain"),
        ("versions.a", "1", "nothing", "possible"),
        ("hardware.num_cores", "2", "4", "none"),
    ]
    given = {"base_model": "https://me:swordfish@hub.example/x"}  # Put back into the record
    assert not find_differences({"given": given}, {"given": redact_values(given), "data": {}})
    whole = {"data": {"fingerprint": "1", "tokenizer": "1"}}
    other = {"data": {"fingerprint": "2", "tokenizer": "2"}}
    assert [row.name for row in compare_facts(whole, other)] == ["data.tokenizer"]
    assert [row.name for row in compare_facts(whole, {"data": {**other["data"], "tokenizer": "1"}})] == [
        "data.fingerprint"
    ]


def test_deterministic_is_on_inside_only_and_names_what_has_no_kernel():
    section = BatchSection(deterministic=True)
    with deterministic_run(section):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic_run(BatchSection()):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(TrainingError, match="put_ has no deterministic kernel"), deterministic_run(section):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    with pytest.raises(RuntimeError, match="another"), deterministic_run(section):
        raise RuntimeError("another")


@pytest.mark.parametrize("size", [0, 2**40], ids=["sample", "full"])
def test_other_weights_have_another_fingerprint(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    import shutil

    from siredon.config.sections.adapter import AdapterSection
    from siredon.config.sections.model import ModelSection
    from siredon.train import fingerprint

    monkeypatch.setattr(fingerprint, "FULL_BYTES", size)
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    ask = lambda place: fingerprint.fingerprint_weights(ModelSection(base_model=str(place)), AdapterSection())  # noqa: E731
    before = ask(model_folder)
    assert ask(folder) == before
    assert before["base_model"].startswith("full:" if size else "sample:")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert ask(folder) != before
    assert ask(tmp_path / "nowhere") == {"base_model": fingerprint.GONE}
    assert ask(Path("no-such-owner/no-such-model")) == {"base_model": fingerprint.ABSENT}
