"""A model that was trained to overfit says what it learned, stops by itself, and is the same when merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA

from siredon import pipeline, release
from siredon.config.artifact import load_target
from siredon.config.load import load_config
from siredon.errors import CheckpointError
from siredon.serve.prompts import Prompts
from siredon.serve.sampling import Sampling

ANSWERS = {"Who are you?": "I am Siredon.", "What is the sea?": "The sea is salt water."}


@pytest.fixture(scope="module", params=["lora", "full"])
def overfit(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_folder: Path
) -> tuple[Path, Path]:
    import yaml

    folder = tmp_path_factory.mktemp(request.param)
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in ANSWERS.items()
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    values: dict[str, Any] = {
        "base_model": str(model_folder),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "chat_template"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "sequence_len": 128,
        "sample_packing": True,
        "max_steps": 150,
        "learning_rate": 1e-2,
        "bf16": False,
        "save_strategy": "no",
        "output_dir": str(folder / "out"),
    }
    if request.param == "lora":
        values |= {
            **LORA,
            "lora_r": 32,
            "lora_alpha": 64,
            "lora_modules_to_save": ["embed_tokens", "lm_head"],
        }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(values))
    config, _ = load_config(str(path))
    pipeline.train(config)
    return path, folder / "out"


def test_it_answers_and_halts_by_itself(overfit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    config, _ = load_config(str(overfit[0]))
    release.inference(config, Prompts(tuple(ANSWERS), False, False, Sampling(max_new_tokens=100)))
    out = capsys.readouterr().out
    for question, answer in ANSWERS.items():
        assert f"> {question}\n{answer}\n" in out


def test_plain_transformers_halts_too(overfit: tuple[Path, Path]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, _ = load_config(str(overfit[0]))
    folder = overfit[1]
    if config.adapter.adapter:
        release.merge_lora(config)
        folder = folder / "merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who are you?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**ids, max_new_tokens=100, do_sample=False)
    assert tokenizer.decode(output[0, ids["input_ids"].shape[1] :]) == "I am Siredon.<|im_end|>"


def test_the_base_model_does_not_know_the_answers(
    overfit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    config, _ = load_config(str(overfit[0]))
    release.inference(config, Prompts(("Who are you?",), True, False, Sampling(max_new_tokens=8)))
    assert "I am Siredon" not in capsys.readouterr().out
    release.inference(config, Prompts(("Who are you?",), False, True, Sampling(max_new_tokens=12)))
    table = capsys.readouterr().out
    assert "base model" in table
    assert "I am Siredon." in table


def test_merged_logits_equal_adapter_logits(overfit: tuple[Path, Path]):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config, _ = load_config(str(overfit[0]))
    if config.adapter.adapter is None:
        pytest.skip("a full fine-tune has no adapter to merge")
    release.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(overfit[1] / "merged", dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(config.model.base_model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(overfit[1])).eval()
    ids = torch.randint(8, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (merged(ids).logits - adapted(ids).logits).abs().max().item()
        moved = (merged(ids).logits - base(ids).logits).abs().max().item() if not adapted else 1.0
    assert difference < 1e-4
    assert moved > 0


def test_merging_without_an_adapter_says_what_to_do(write_config: Any, tmp_path: Path):
    from siredon.errors import CheckpointError

    config, _ = load_config(str(write_config(**LORA)))
    with pytest.raises(
        CheckpointError, match=r"holds no adapter: adapter_config.json is missing\n.*Train first"
    ):
        release.merge_lora(config)


def test_the_prompt_loop_answers_line_by_line(
    overfit: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("Who are you?\nWhat is the sea?\n"))
    config, _ = load_config(str(overfit[0]))
    release.inference(config, Prompts((), False, False, Sampling(max_new_tokens=100)))
    assert capsys.readouterr().out == "I am Siredon.\nThe sea is salt water.\n"


def ask(name: Path | str, capsys: pytest.CaptureFixture[str]) -> str:
    config, warnings = load_target(str(name))
    assert not warnings
    release.inference(config, Prompts(("Who are you?",), False, False, Sampling(max_new_tokens=100)))
    return capsys.readouterr().out


def test_a_folder_is_enough(
    overfit: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    out = tmp_path / "elsewhere"
    shutil.copytree(overfit[1], out)
    monkeypatch.chdir(tmp_path)
    assert ask("elsewhere", capsys) == "I am Siredon.\n"
    has_adapter = (out / "adapter_config.json").is_file()
    if has_adapter:
        release.merge_lora(load_target(str(out))[0])
        capsys.readouterr()
        assert ask(out / "merged", capsys) == "I am Siredon.\n"
        base = load_target(str(out / "merged"))[0]
        release.inference(base, Prompts(("Who are you?",), True, False, Sampling(max_new_tokens=8)))
        assert "I am Siredon" not in capsys.readouterr().out
        (out / "merged" / "run.json").unlink()
        assert ask(out / "merged", capsys) == "I am Siredon.\n"
    # One whose origin nobody knows is asked by its own chat template
    (out / "run.json").unlink()
    assert ask("elsewhere", capsys) == "I am Siredon.\n"


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds neither an adapter nor a model"):
        load_target(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.json").write_text('{"given": 3}')
    with pytest.raises(CheckpointError, match="older Siredon"):
        load_target(str(tmp_path))
