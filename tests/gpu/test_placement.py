"""On two GPUs: one model spread over both learns what it learns on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.errors import ModelError
from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(probe_hardware().num_devices < 2, reason="this machine has no two GPUs"),
]


@pytest.mark.parametrize("adapter", [False, True])
def test_a_spread_model_has_the_losses_of_one_device(
    write_config: Any, tmp_path: Path, adapter: bool, capsys: Any
):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    found = []
    for number, keys in enumerate(({}, {"device_map": "balanced"}, {"gpu_memory_limit": "400KB"})):
        keys |= {**(LORA if adapter else {}), "sample_packing": True, "max_steps": 3}
        out = tmp_path / f"out{number}"
        pipeline.train(config_of(write_config(f"{number}.yml", output_dir=str(out), **keys)))
        found.append([row["loss"] for row in metrics_of(out) if "loss" in row])
    said = capsys.readouterr().err
    assert said.count("parts on device 1") >= 1
    for spread in found[1:]:
        assert spread == pytest.approx(found[0], rel=1e-4)
    assert all(torch.cuda.max_memory_allocated(index) > 0 for index in (0, 1))


def test_a_model_without_room_on_the_gpus_is_refused(write_config: Any):
    from tests.runs.test_train import config_of

    from siredon import pipeline

    with pytest.raises(ModelError, match=r"device_map|disk|room"):
        pipeline.train(config_of(write_config(gpu_memory_limit="100KB")))
