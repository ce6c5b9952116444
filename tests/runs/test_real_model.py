"""SmolLM2-135M for real: alpaca rows, LoRA, a few minutes on a CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import SHARED_DATA

from siredon import pipeline
from siredon.config.load import load_config
from siredon.config.model_folder import locate_model

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: Validation loss must fall by at least this much, in nats per target token.
MARGIN = 0.10


@pytest.mark.long
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data folder is not beside this checkout")
@pytest.mark.skipif(locate_model(MODEL) == MODEL, reason="run examples/smollm2/fetch_model.py first")
@pytest.mark.parametrize("few_bits", [{}, {"adapter": "qlora", "load_in_4bit": True}], ids=["lora", "qlora"])
def test_an_adapter_on_real_alpaca_rows_lowers_the_validation_loss(tmp_path: Path, few_bits: dict[str, Any]):
    values: dict[str, Any] = {
        "base_model": MODEL,
        "datasets": [{"path": str(SHARED_DATA / "alpaca_en_demo.json"), "type": "alpaca"}],
        "val_set_size": 32,
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "sequence_len": 512,
        "sample_packing": True,
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_linear": True,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 30,
        "learning_rate": 5e-4,
        "warmup_steps": 2,
        "eval_steps": 30,
        "save_strategy": "no",
        "output_dir": str(tmp_path / "out"),
        **few_bits,
    }
    path = tmp_path / "alpaca.yml"
    path.write_text(yaml.safe_dump(values))
    config, _ = load_config(str(path))
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    pipeline.train(config)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] < losses[0] - MARGIN, losses
