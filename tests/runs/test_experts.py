"""Experts in few bits under LoRA, from YAML to merged model: trained, resumed, asked, merged, and on two ranks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_quantized import QLORA, logits_of
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import config_of, metrics_of, weights_of

from siredon import pipeline, release
from siredon.hardware import probe_hardware
from siredon.serve.load import load_tuned

EXPERTS = {
    **QLORA,
    "lora_target_linear": ...,
    "lora_target_modules": ["q_proj", "v_proj"],
    "lora_target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    "quantize_moe_experts": True,
    "gradient_checkpointing": True,
    "learning_rate": 1e-2,
    "max_steps": 6,
    "save_steps": 3,
}


def test_lora_on_rounded_experts_is_resumed_exactly_asked_and_merged(
    write_config: Any,
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = family_folder("qwen3_moe")
    keys = {**EXPERTS, "base_model": str(folder)}
    config, out = config_of(write_config(**keys)), tmp_path / "out"
    pipeline.train(config)
    losses = [row["loss"] for row in metrics_of(out) if "loss" in row]
    assert losses[-1] < losses[0] - 0.05
    # 1. Stopped after step 3 and gone on with
    whole = weights_of(out)
    shutil.rmtree(out / "checkpoint-6")
    (out / "adapter_model.safetensors").unlink()
    pipeline.train(config_of(write_config(**keys, auto_resume_from_checkpoints=True)))
    resumed = weights_of(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # 2. Asked, and merged into the widened weights of training
    answering = logits_of(load_tuned(config, probe_hardware()).model)
    capsys.readouterr()
    release.merge_lora(config)
    said = capsys.readouterr().err
    assert "experts: 4 stacks held in" in said
    assert "% from the unrounded ones" in said
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    assert "quantization_config" not in merged.config.to_dict()
    assert (logits_of(merged) - answering).abs().max() < 1e-4
    # 3. Merged into the unrounded base: what plain PEFT makes of the adapter and that base
    release.merge_lora(config_of(write_config(**keys, merge_base="original")))
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(logits_of(merged), logits_of(PeftModel.from_pretrained(base, str(out))), atol=1e-4)


def test_what_is_kept_for_the_backward_pass_may_wait_on_disk(
    write_config: Any, family_folder: Callable[[str], Path], tmp_path: Path
):
    keys = {**EXPERTS, "base_model": str(family_folder("qwen3_moe")), "max_steps": 2, "save_strategy": "no"}
    losses = []
    for parking in (False, "disk"):
        keys |= {
            "save_steps": ...,
            "activation_offloading": parking,
            "output_dir": str(tmp_path / str(parking)),
        }
        pipeline.train(config_of(write_config(**keys)))
        losses.append([row["loss"] for row in metrics_of(tmp_path / str(parking)) if "loss" in row])
    assert losses[0] == losses[1]


@pytest.mark.long
def test_two_ranks_hold_the_same_rounded_experts(
    write_config: Any, family_folder: Callable[[str], Path], tmp_path: Path
):
    keys = {**EXPERTS, "base_model": str(family_folder("qwen3_moe")), "max_steps": 2, "save_steps": ...}
    stderr = train_on_two_ranks(write_config(**keys, gradient_accumulation_steps=1, save_strategy="no"))
    assert stderr.count("step 2/2  loss") == 1
    pipeline.train(
        config_of(write_config(**keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")))
    )
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "out")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3
