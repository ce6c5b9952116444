"""Every family of models trains from the YAML: no code of ours knows which one it is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.families import EXPERTS, FAMILIES, RECURRENT

from siredon import pipeline
from siredon.config.load import load_config
from siredon.errors import ModelError

#: What a family needs beside, as it says itself.
NEEDS = {name: {"attn_implementation": "eager"} for name in ("gemma2", "gpt_oss")}
#: Documents of a pack would see each other: through a state, or as GPT-OSS gives no positions to its eager mask.
UNPACKED = (*RECURRENT, "gpt_oss")
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["o_proj"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short conversation, four times: what is learned of it shows in the next step."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    messages = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "I am Siredon."},
    ]
    path.write_text((json.dumps({"messages": messages}) + "\n") * 4)
    return path


@pytest.fixture
def train(
    rows: Path, tmp_path: Path, family_folder: Callable[[str], Path]
) -> Callable[..., tuple[list[float], Path]]:
    """Trains three steps of a family; gives the losses, and the folder of the run."""

    def run(family: str, **changes: Any) -> tuple[list[float], Path]:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        values = {
            "base_model": str(family_folder(family)),
            "datasets": [{"path": str(rows), "type": "chat_template"}],
            "dataset_prepared_path": str(rows.parent / "prepared"),
            "sequence_len": 64,
            "pad_to_sequence_len": False,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": 3,
            "learning_rate": 5e-3,
            "lr_scheduler": "constant",
            "bf16": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "output_dir": str(out),
            **NEEDS.get(family, {}),
            **changes,
        }
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump(values))
        pipeline.train(load_config(str(path))[0])
        rows_of_metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows_of_metrics if "loss" in row], out

    return run


def assert_learns(losses: list[float]) -> None:
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_in_full_and_by_adapter_packed_and_not(family: str, train: Any):
    alone, out = train(family)
    assert_learns(alone)
    assert (out / "model.safetensors").is_file()
    if family in UNPACKED:
        with pytest.raises(ModelError, match="lets documents in one sequence see each other"):
            train(family, sample_packing=True, **LORA)
        return
    packed, out = train(family, sample_packing=True, **LORA)
    assert_learns(packed)
    assert (out / "adapter_model.safetensors").is_file()
    # The same rows, before anything is learned: packing changes no loss.
    assert packed[0] == pytest.approx(alone[0], rel=1e-2 if family in EXPERTS else 1e-4)
