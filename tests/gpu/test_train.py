"""On a GPU: the same losses as on a CPU, packed documents isolated, a whole run with bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import largest_difference, random_samples, take_step, true_step

from siredon.data.pack import pack_best_fit
from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
UNEQUAL = random_samples([(100, 90), (12, 3), (40, 35), (9, 8), (64, 5), (17, 16), (80, 41), (30, 3)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_those_of_the_cpu_in_fp64(write_config: Any, attention: str, packed: bool):
    lengths = [len(sample.input_ids) for sample in UNEQUAL]
    packs = pack_best_fit(lengths, 128) if packed else [[index] for index in range(8)]
    truth, wanted = true_step(build_model(), UNEQUAL)
    model = build_model()
    model.set_attn_implementation(attention)
    keys = {"tf32": False, "gradient_accumulation_steps": len(packs)}
    loss, got = take_step(
        model, UNEQUAL, packs, write_config, pad_to=128 if packed else None, hardware=probe_hardware(), **keys
    )
    assert loss == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-4


def test_a_whole_run_in_bf16_lowers_the_loss(write_config: Any, tmp_path: Path):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    keys = {**LORA, "bf16": "auto", "sample_packing": True, "max_steps": 20, "learning_rate": 2e-2}
    pipeline.train(config_of(write_config(**keys)))
    losses = [row["loss"] for row in metrics_of(tmp_path / "out")]
    assert losses[-1] < losses[0] - 0.3
    assert torch.cuda.max_memory_allocated() > 0
