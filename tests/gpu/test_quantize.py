"""Methods of `quantize` that only a GPU computes, and the others on one: written, read back, held against the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon import release
from siredon.config.artifact import load_target
from siredon.errors import ModelError
from siredon.evaluate.agreement import compute_logits, measure_agreement
from siredon.export.quantize_wanted import Quantize
from siredon.hardware import probe_hardware, read_capability

#: Token 0 is the padding token: its embedding is zero, and a row of zeros has the scale 0.
IDS = list(range(32))


@pytest.mark.parametrize(
    "method", ["int8", "int8_int8", "int4", "int4_int8", "fp8", "nvfp4", "nf4", "llm_int8", "fp8_fp8"]
)
def test_a_folder_written_here_is_read_here(method: str, tokenizer: Any, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_model(len(tokenizer), dtype=torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    wanted = Quantize(method, output=tmp_path / "few")
    if method == "fp8_fp8" and read_capability() < (8, 9):
        with pytest.raises(ModelError, match="needs an NVIDIA GPU of compute capability"):
            release.quantize(load_target(str(base))[0], wanted)
        return
    release.quantize(load_target(str(base))[0], wanted)
    report = json.loads((tmp_path / "few/quantize.json").read_text())
    assert report["read_back"]["kl"] < 1e-5
    assert 0 < report["checked"]["agreement"]["kl"] < 0.1
    device = probe_hardware().device
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "few", device_map={"": device}).eval()
    whole = AutoModelForCausalLM.from_pretrained(base, device_map={"": device}).eval()
    off = measure_agreement(compute_logits(whole, IDS).cpu(), compute_logits(model, IDS).cpu())
    assert 0 < off.kl < 0.1
