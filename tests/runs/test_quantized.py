"""Weights in few bits under an adapter, from YAML to merged model: trained, validated, resumed, asked, merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.hardware import probe_hardware
from siredon.serve.load import load_tuned

QLORA = {**LORA, "adapter": "qlora", "load_in_4bit": True}
#: Keys, and how far merged logits may be from those of the adapter on rounded weights (inputs are rounded, too,
#: by the 8 bits of bitsandbytes, which a merge cannot keep).
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "nf4": (QLORA, 1e-4),
    "8bit": ({**LORA, "load_in_8bit": True}, 0.5),
    "torchao-int8": ({**LORA, "load_in_torchao": "int8"}, 1e-4),
}
IDS = torch.randint(8, 500, (2, 40), generator=torch.Generator().manual_seed(0))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("way", WAYS)
def test_a_run_beside_rounded_weights_is_resumed_exactly_and_merged(
    write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
):
    from transformers import AutoModelForCausalLM

    keys, tolerance = WAYS[way]
    keys = {
        **keys,
        "max_steps": 8,
        "save_steps": 4,
        "learning_rate": 5e-2,
        "val_set_size": 2,
        "eval_steps": 4,
    }
    config = config_of(write_config(**keys, sample_packing=True))
    out = tmp_path / "out"
    pipeline.train(config)
    losses = [row["loss"] for row in metrics_of(out) if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert "linear layers held" in capsys.readouterr().err
    # 1. Stopped after step 4 and gone on with
    whole = weights_of(out)
    shutil.rmtree(out / "checkpoint-8")
    (out / "adapter_model.safetensors").unlink()
    pipeline.train(config_of(write_config(**keys, sample_packing=True, auto_resume_from_checkpoints=True)))
    resumed = weights_of(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # 2. Asked and merged
    answering = logits_of(load_tuned(config, probe_hardware()).model)
    capsys.readouterr()
    pipeline.merge_lora(config)
    assert "% from the unrounded ones" in capsys.readouterr().err
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    assert "quantization_config" not in merged.config.to_dict()
    difference = (logits_of(merged) - answering).abs().max().item()
    assert difference < tolerance


def test_the_unrounded_base_is_merged_into_where_the_file_says_so(
    write_config: Any, tmp_path: Path, model_folder: Path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = config_of(write_config(**QLORA, max_steps=2, merge_base="original"))
    pipeline.train(config)
    pipeline.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    assert torch.allclose(logits_of(merged), logits_of(adapted), atol=1e-4)
