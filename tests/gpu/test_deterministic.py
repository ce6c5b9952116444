"""On a GPU: with `deterministic: true` two runs are equal to the bit, and a run is made again from its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("has_adapter", [False, True], ids=["full", "lora"])
def test_two_runs_are_equal_to_the_bit(write_config: Any, tmp_path: Path, attention: str, has_adapter: bool):
    from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

    from siredon import pipeline

    keys = {
        **({**LORA, "lora_dropout": 0.1} if has_adapter else {}),
        "attn_implementation": attention,
        "sample_packing": True,
        "bf16": "auto",
        "max_steps": 10,
        "save_strategy": "no",
        "learning_rate": 1e-2 if has_adapter else 1e-3,
    }
    ways = {"first": {"deterministic": True}, "second": {"deterministic": True}, "plain": {}}
    for name, more in ways.items():
        config = config_of(write_config(**keys, **more, output_dir=str(tmp_path / name)))
        pipeline.train(config)
        assert not torch.are_deterministic_algorithms_enabled()
    first, second = weights_of(tmp_path / "first"), weights_of(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = {name: [row["loss"] for row in metrics_of(tmp_path / name) if "loss" in row] for name in ways}
    assert losses["first"] == losses["second"]
    assert losses["first"] == pytest.approx(losses["plain"], abs=2e-2)


def test_a_run_is_made_again_from_its_record(write_config: Any, tmp_path: Path, capsys: Any):
    from tests.runs.test_train import LORA, config_of

    from siredon import pipeline
    from siredon.train.reproduce import Repeat

    keys = {**LORA, "bf16": "auto", "deterministic": True, "save_strategy": "no"}
    pipeline.train(config_of(write_config(**keys)))
    wanted = Repeat(tmp_path / "out", tmp_path / "again", only_checks=False, force=False)
    assert pipeline.reproduce(wanted)
    shown = capsys.readouterr().out
    assert "the same: configuration, data, weights, programs, machine, environment" in shown
    assert "identical to the bit: adapter_model.safetensors, and every metric" in shown
