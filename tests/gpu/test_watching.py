"""On a GPU: watching a run does not change it, its memory is recorded, and a skipped step does not advance the rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


def test_watching_a_run_leaves_its_dropout_alone(write_config: Any, tmp_path: Path, capsys: Any):
    from tests.runs.test_train import LORA, config_of
    from tests.runs.test_watching import VALIDATION, WATCHING, lines_of, same

    from siredon import pipeline

    # Dropout on the GPU is drawn from the generator that sampling would use
    keys = {**LORA, **VALIDATION, "lora_dropout": 0.2, "max_steps": 4}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    pipeline.train(config_of(write_config("b.yml", **keys, **WATCHING)))
    out = tmp_path / "out"
    assert same(tmp_path / "plain", out)
    assert len(lines_of(out / "samples.jsonl")) == 6
    assert (out / "profile/trace-0.json").stat().st_size > 10_000
    assert (out / "profile/memory-0.pickle").stat().st_size > 10_000
    assert "torch_empty_cache_steps" not in capsys.readouterr().err


def test_a_step_that_fp16_skips_does_not_advance_the_rate(write_config: Any):
    from tests.unit.train.test_learning_rate import train_rows
    from transformers import TrainerCallback

    from siredon.model.precision import Precision

    class Overflow(TrainerCallback):
        """Makes the gradients of the third step infinite."""

        def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                next(model.parameters()).grad.fill_(math.inf)

    trainer = train_rows(
        write_config,
        12,
        [Overflow()],
        machine=(probe_hardware(), Precision(torch.float32, "fp16", False)),
        gradient_accumulation_steps=2,
        lr_scheduler="linear",
        warmup_steps=0,
    )
    rates = [row["learning_rate"] * 1e3 for row in trainer.state.log_history if "learning_rate" in row]
    # The scale of the loss may be too high at first, which skips steps as well
    assert rates.count(rates[-1]) == 1
    assert len(set(rates)) < len(rates)
    assert min(rates) > 1 / 6 - 1e-9
