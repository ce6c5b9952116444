"""Optimizers from YAML to saved weights: they go on bit for bit, and each writes what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import ROOT
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.unit.train.test_optimizers import Problem, build, plan_of, take_steps

from siredon import pipeline

TARGETS = {"optim_target_modules": ["attn", "mlp"], "optim_args": "rank=4,update_proj_gap=2,scale=1"}
CASES = {
    "muon": {"optimizer": "muon", "optim_args": {"momentum": "0.9"}},
    "in_backward": {"optimizer": "galore_adamw_layerwise", **TARGETS, "gradient_accumulation_steps": 1},
    "grokfast": {"plugins": ["axolotl.integrations.grokfast.GrokfastPlugin"], "optimizer": "paged_lion_8bit"},
    "rounding": {"optimizer": "adamw_bf16_sr", "bf16": True},
    "lora_plus": {**LORA, "loraplus_lr_ratio": 8, "optimizer": "came_pytorch"},
}


@pytest.mark.parametrize("name", CASES)
def test_an_optimizer_learns_and_goes_on_bit_for_bit(write_config: Any, tmp_path: Path, name: str):
    keys = {"max_steps": 4, "save_steps": 2, "learning_rate": 5e-3, "warmup_steps": 1, **CASES[name]}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "whole"))))
    losses = [row["loss"] for row in metrics_of(tmp_path / "whole")]
    assert losses[-1] < losses[0] - 0.1
    named = str(tmp_path / "whole" / "checkpoint-2")
    resumed = write_config("b.yml", **keys, output_dir=str(tmp_path / "cut"), resume_from_checkpoint=named)
    pipeline.train(config_of(resumed))
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_schedule_free_weights_are_the_averages_wherever_they_are_saved(write_config: Any, tmp_path: Path):
    keys = {
        "optimizer": "schedule_free_adamw",
        "lr_scheduler": "constant",
        "weight_decay": 0.01,
        "max_steps": 4,
        "save_steps": 1,
        "val_set_size": 3,
        "eval_steps": 3,
    }
    pipeline.train(config_of(write_config(**keys)))
    out = tmp_path / "out"
    # With a constant rate, the average of step t is x_t = x_(t-1) + (z_t - x_(t-1)) / t, where z are the plain steps.
    x = weights_of(out / "checkpoint-1")
    names = list(x)
    for step in (2, 3, 4):
        state = torch.load(out / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)
        assert not any(group["train_mode"] for group in state["param_groups"])
        z = sorted((value["z"] for value in state["state"].values()), key=lambda value: value.sum().item())
        now = weights_of(out / f"checkpoint-{step}")
        average = sorted(
            (x[name] + step * (now[name] - x[name]) for name in names), key=lambda value: value.sum().item()
        )
        for true, found in zip(z, average, strict=True):
            assert torch.allclose(true, found, atol=1e-5)
        x = now
    last = weights_of(out)
    assert all(torch.equal(last[name], x[name]) for name in names)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_global_norm_of_the_whole_step_is_clipped(write_config: Any, tmp_path: Path, accumulation: int):
    keys = {
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler": "constant",
        "max_steps": 1,
        "max_grad_norm": 0.01,
        "micro_batch_size": 4 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    config = config_of(write_config(**keys))
    pipeline.train(config)
    from safetensors.torch import load_file

    before = load_file(Path(config.model.base_model) / "model.safetensors")
    after = weights_of(tmp_path / "out")
    change = sum(((after[name] - before[name]).double() ** 2).sum().item() for name in after) ** 0.5
    (row,) = metrics_of(tmp_path / "out")
    assert row["grad_norm"] > 0.1
    assert change == pytest.approx(0.01, rel=1e-3)


def test_the_logged_rate_is_that_of_the_main_group(write_config: Any, tmp_path: Path, capsys: Any):
    group = {"name": "queries", "modules": ["q_proj"], "lr": 1e-5}
    keys = {"lr_groups": [group], "embedding_lr": 2e-5, "warmup_steps": 0, "max_steps": 2}
    pipeline.train(config_of(write_config(**keys, save_strategy="no")))
    assert [row["learning_rate"] for row in metrics_of(tmp_path / "out")] == pytest.approx([1e-3, 5e-4])
    shown = capsys.readouterr().err
    assert "queries: 8,192 parameters, learning rate 1e-05" in shown
    assert "embeddings: 32,768 parameters, learning rate 2e-05" in shown


@pytest.mark.long
def test_muon_on_sharded_matrices_takes_the_steps_of_one_process(tmp_path: Path):
    target = tmp_path / "weights.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/runs/sharded_muon.py"), str(target)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model = Problem()
    take_steps(model, build(model, plan_of("muon")), range(3))
    sharded = torch.load(target, weights_only=True)
    for name, value in model.state_dict().items():
        assert torch.allclose(sharded[name], value, atol=1e-6), name
