"""The start of an adapter by data, found on two ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA


@pytest.mark.long
def test_two_ranks_deal_the_same_ranks(write_config: Any, tmp_path: Path):
    # Ranks that differed would be weights of different shapes, with which training on two ranks does not begin.
    keys = {
        "peft_init_lora_weights": "eva",
        "lora_r": 4,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    stderr = train_on_two_ranks(write_config(**{**LORA, **keys}, max_steps=2, save_strategy="no"))
    assert stderr.count("step 2/2  loss") == 1
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    dealt = [settings["rank_pattern"].get(name, 4) for name in settings["target_modules"]]
    assert len(set(dealt)) > 1
    assert sum(dealt) == 4 * 14
