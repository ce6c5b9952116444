"""On a GPU: a bad step is kept from the weights, and nothing waits for the verdict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
FUSED = {"optimizer": "adamw_torch_fused"}


@pytest.fixture
def write(write_config: Any, tokenizer: Any, tmp_path: Path) -> Callable[..., Path]:
    from tests.runs.test_bad_steps import make_writer, save_poisoned

    return make_writer(write_config, save_poisoned(tokenizer, tmp_path / "poisoned"))


def test_a_fused_adam_skips_on_the_device_as_if_the_batch_had_never_been(write: Any, tmp_path: Path):
    from tests.runs.test_bad_steps import BAD_STEP, losses_of, rows_of, same, same_moments, train
    from tests.runs.test_train import LORA

    keys = {**LORA, **FUSED, "logging_steps": 8}
    truth = tmp_path / "truth"
    train(
        write(
            "truth", **{**keys, "logging_steps": 1}, without=(BAD_STEP,), max_steps=7, output_dir=str(truth)
        )
    )
    good = list(losses_of(truth).values())
    for policy in ("skip", "rollback"):
        out = tmp_path / policy
        train(write(policy, **keys, on_bad_step=policy, output_dir=str(out)))
        assert same(truth, out)
        assert same_moments(truth / "checkpoint-7", out / "checkpoint-8")
        assert list(losses_of(out).values()) == pytest.approx([good[0], sum(good[1:]) / 6], abs=1e-5)
        rows = rows_of(out / "bad_steps/step-000005.jsonl")
        assert [math.isfinite(row["loss"]) for row in rows] == [True, False]


def test_the_guard_waits_for_nothing_that_a_run_without_it_does_not_wait_for(write: Any, tmp_path: Path):
    from tests.runs.test_train import LORA, config_of

    from siredon import pipeline

    def count_waits(num_steps: int, **keys: Any) -> int:
        """How often a run waits for the device, from its first line to its last."""
        changes = {**LORA, **FUSED, "save_steps": 100, "logging_steps": 100, **keys, "max_steps": num_steps}
        config = config_of(write("waits", bad=(), **changes))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                pipeline.train(config)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)

    def count_per_step(**keys: Any) -> float:
        return (count_waits(8, **keys) - count_waits(4, **keys)) / 4

    plain = count_per_step(on_bad_step="ignore")
    assert plain >= 1
    spikes = {"spike_factor": 3, "grad_spike_factor": 3, "spike_window": 8}
    for policy in ("stop", "skip", "rollback"):
        assert count_per_step(on_bad_step=policy, **spikes) == plain, policy
    assert count_per_step(on_bad_step="stop", **spikes, optimizer="adamw_torch") == plain
    # An optimizer that does not skip by itself has to be told before its update
    assert count_per_step(on_bad_step="skip", **spikes, optimizer="adamw_torch") == plain + 1


def test_with_fp16_a_bad_step_is_skipped_and_ends_a_run_that_is_to_stop(write: Any, tmp_path: Path):
    from tests.runs.test_bad_steps import BAD_STEP, rows_of, train
    from tests.runs.test_train import LORA, weights_of

    from siredon.errors import TrainingError

    keys = {**LORA, **FUSED, "fp16": True}
    truth, out = tmp_path / "truth", tmp_path / "out"
    train(write("truth", **keys, without=(BAD_STEP,), max_steps=7, output_dir=str(truth)))
    train(write(**keys, on_bad_step="skip"))
    first, second = weights_of(truth), weights_of(out)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-3
    rows = rows_of(out / "bad_steps/step-000005.jsonl")
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False]
    with pytest.raises(TrainingError, match="step 5 is bad"):
        train(write("stop", **keys, output_dir=str(tmp_path / "stopped")))
