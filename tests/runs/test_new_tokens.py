"""New tokens from the YAML to the merged model: embeddings, head and tokenizer stay in step, tied and untied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import build_model
from tests.families import build_family
from tests.gguf_file import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from siredon import pipeline, release
from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.hardware import probe_hardware
from siredon.model.load import Source, load_model
from siredon.model.tokenizer import load_tokenizer
from siredon.serve.load import load_tuned

TEXT = "<|im_start|>assistant\n<think>a</think>I am Siredon.<|im_end|>"
LORA = {
    "adapter": "lora",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_linear": True,
    "lora_modules_to_save": ["embed_tokens", "lm_head"],
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "thoughts.jsonl"
    answer = {"role": "assistant", "content": "<think>a</think>I am Siredon."}
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Who?"}, answer]}) + "\n")
    return path


def load(path: Path) -> Config:
    return load_config(str(path))[0]


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits
    return found


def base_of(config: Config) -> Any:
    """The base model as every verb loads it."""
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    return load_model(Source.of(config), torch.float32, tokenizer, probe_hardware(), seed=config.batch.seed)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_live_through_training_saving_merging_and_reloading(
    write_config: Any, tmp_path: Path, tokenizer: Any, rows: Path, tied: bool, capsys: Any
):
    folder = tmp_path / "base"
    build_model(tied=tied).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    keys = {
        "base_model": str(folder),
        "datasets": [{"path": str(rows), "type": "chat_template"}],
        "tokens": ["<think>", "</think>"],
        "resize_token_embeddings_to_32x": True,
        "mean_resizing_embeddings": True,
        "max_steps": 2,
    }
    path = write_config(**keys, **LORA)
    config = load(path)
    pipeline.train(config)
    said = capsys.readouterr().err
    assert "embeddings: 512 -> 544 rows; new ones start at the average row" in said
    assert "nobody trains" not in said
    # Saved and read again
    ids = load_tokenizer(config.tokenizer, config.model).encode(TEXT)
    assert {512, 513} <= set(ids)
    engine = load_tuned(config, probe_hardware())
    expected = logits(engine.model, ids)
    # What moved
    before, after = base_of(config), engine.model.base_model.model
    start = before.get_input_embeddings().weight
    trained = after.get_input_embeddings().modules_to_save["default"].weight
    moved = (trained - start).abs().amax(dim=1) > 0
    assert moved[[512, 513]].all()
    if not tied:  # rows that no text names have no gradient; a tied head gives every row one
        assert moved.nonzero().flatten().tolist() == sorted(
            set(moved.nonzero().flatten().tolist()) & known(config)
        )
        assert not moved[514:].any()
    # Merged, and read by plain transformers
    release.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    assert merged.config.vocab_size == merged.get_input_embeddings().weight.shape[0] == 544
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied
    torch.testing.assert_close(logits(merged, ids), expected, rtol=0, atol=2e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "merged").encode(TEXT) == ids
    assert torch.equal(merged.get_input_embeddings().weight, trained)


def known(config: Config) -> set[int]:
    """Ids that the prepared row holds."""
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    text = "<|im_start|>user\nWho?<|im_end|>\n" + TEXT + "\n"
    return set(tokenizer.encode(text))


def test_renamed_tokens_are_in_the_output_and_reset_rows_are_those_of_the_base_alone(
    write_config: Any, tmp_path: Path, rows: Path, capsys: Any
):
    keys = {
        "datasets": [{"path": str(rows), "type": "chat_template"}],
        "added_tokens_overrides": {6: "<think>", 7: "</think>"},
        "fix_untrained_tokens": [6, 7],
        "max_steps": 2,
    }
    config = load(write_config(**keys))
    pipeline.train(config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode(TEXT)
    assert (6 in ids, tokenizer.decode([6]), tokenizer.decode([7])) == (True, "<think>", "</think>")
    state = load_file(tmp_path / "out" / "model.safetensors")
    start = base_of(config).get_input_embeddings().weight
    assert not torch.equal(start[6], state["model.embed_tokens.weight"][6])
    # Asking the trained model resets nothing
    engine = load_tuned(config, probe_hardware())
    assert torch.equal(engine.model.get_input_embeddings().weight, state["model.embed_tokens.weight"])
    assert engine.tokenizer.encode(TEXT) == ids


def test_a_gguf_file_is_trained_and_merged_like_any_model(
    write_config: Any, tmp_path: Path, tokenizer: Any, rows: Path
):
    file = write_gguf(build_family("qwen2"), tokenizer, tmp_path / "tiny.gguf")
    keys = {"datasets": [{"path": str(rows), "type": "chat_template"}], "max_steps": 2}
    lora = {**LORA, "lora_modules_to_save": []}
    config = load(write_config(base_model=str(file), tokens=["<think>", "</think>"], **keys, **lora))
    pipeline.train(config)
    ids = load_tokenizer(config.tokenizer, config.model).encode(TEXT)
    expected = logits(load_tuned(config, probe_hardware()).model, ids)
    release.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    torch.testing.assert_close(logits(merged, ids), expected, rtol=0, atol=2e-5)
