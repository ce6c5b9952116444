"""Runs with fused kernels, in plain PyTorch on a CPU: the losses of runs without; the table of `siredon kernels`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline

STEPS = {"max_steps": 4, "learning_rate": 1e-3, "save_strategy": "no"}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        LORA,
        {**LORA, "gradient_checkpointing": True},
        {**LORA, "peft_use_dora": True},
        {"sample_packing": True, "sequence_len": 256},
    ],
    ids=["full", "lora", "lora-recomputed", "dora", "packed"],
)
def test_a_run_has_the_losses_that_it_has_without(
    write_config: Any, tmp_path: Path, capsys: Any, keys: dict[str, Any]
):
    found = {}
    for name, kernels in (("plain", {}), ("fused", {"kernels": ["rms_norm", "rope", "glu", "lora_linear"]})):
        path = write_config(f"{name}.yml", output_dir=str(tmp_path / name), **STEPS, **keys, **kernels)
        pipeline.train(config_of(path))
        found[name] = [row["loss"] for row in metrics_of(tmp_path / name) if "loss" in row]
        said = capsys.readouterr().err
        assert ("kernels: rms_norm, rope, glu, lora_linear" in said) == (name == "fused")
    assert found["fused"] == pytest.approx(found["plain"], abs=2e-5)


def test_dropout_is_that_of_the_seed(write_config: Any, tmp_path: Path):
    """A run that is resumed, repeated, or recomputes its layers drops the same; one of another seed does not."""
    keys = {
        **LORA,
        **STEPS,
        "lora_dropout": 0.5,
        "kernels": ["lora_linear", "glu"],
        "save_strategy": "steps",
        "save_steps": 2,
    }
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "again": {},
        "resumed": {"resume_from_checkpoint": str(tmp_path / "whole" / "checkpoint-2")},
        "recomputed": {"gradient_checkpointing": True},
        "other": {"seed": 7},
        "without": {"lora_dropout": 0.0},
    }
    weights = {}
    for name, way in ways.items():
        pipeline.train(
            config_of(write_config(f"{name}.yml", output_dir=str(tmp_path / name), **{**keys, **way}))
        )
        weights[name] = weights_of(tmp_path / name)
    for name, found in weights.items():
        exact = name in ("whole", "again", "resumed")
        same = all(
            torch.allclose(one, weights["whole"][key], rtol=0, atol=0 if exact else 1e-6)
            for key, one in found.items()
        )
        assert same == (name in ("whole", "again", "resumed", "recomputed")), name


def test_names_of_liger_and_axolotl_choose_the_same_kernels(write_config: Any, capsys: Any):
    keys = {"liger_rope": True, "liger_rms_norm": True, "lora_qkv_kernel": True, "lora_mlp_kernel": False}
    pipeline.kernels(config_of(write_config("a.yml", **LORA, **keys)), as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["kernels"]}
    assert {name for name, row in rows.items() if row["choice"]} == {"rms_norm", "rope", "lora_linear"}
    assert rows["lora_linear"]["choice"] == "8 layers"
    assert rows["linear_cross_entropy"]["reason"] == "no GPU: logits are computed whole"
    assert rows["glu"]["reason"] == "no GPU: PyTorch's own is used"


def test_a_kernel_that_is_asked_for_and_cannot_be_had_is_a_warning(write_config: Any, capsys: Any):
    keys = {"liger_layer_norm": True, "chunked_cross_entropy": True}
    pipeline.kernels(config_of(write_config("a.yml", **keys)), as_json=False)
    out, err = capsys.readouterr()
    assert "rows at a time" in out
    assert "warning: `layer_norm` is asked for and not fused: this model has none" in err
    assert "no: this model has none" in out


def measure_wrapped(number_format: str) -> dict[str, dict[str, float]]:
    """Two ranks run `wrapped_kernels`; what it found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.runs.wrapped_kernels", number_format],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(lines[0].removeprefix("RESULT "))
    return found


@pytest.mark.long
@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_gradients_under_wrappers_of_several_ranks_are_those_of_the_plain_model(number_format: str):
    for distances in measure_wrapped(number_format).values():
        for kind in ("ddp", "fsdp"):
            assert distances[kind] <= 1.5 * distances["plain"] + 2e-6
