"""On a GPU with 8-bit floats: products that are rounded to them train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.runs.test_train import LORA, config_of, metrics_of

from siredon import pipeline
from siredon.config.sections.precision import PrecisionSection
from siredon.hardware import probe_hardware, read_capability
from siredon.model.float8 import use_float8_products_

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(read_capability() < (9, 0), reason="no GPU with 8-bit floats"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("length", [32, 37])
def test_gradients_are_those_of_bfloat16_but_for_rounding(length: int):
    def gradients(*, rounded: bool) -> torch.Tensor:
        model: Any = build_model(dtype=torch.bfloat16)
        use_float8_products_(model, PrecisionSection(fp8=rounded), probe_hardware())
        model.to(probe_hardware().device)
        ids = torch.arange(length, device=model.device)[None] * 7 % 500
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]).float()

    plain, found = gradients(rounded=False), gradients(rounded=True)
    error = float((found - plain).norm() / plain.norm())
    assert 1e-3 < error < 0.25


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_a_compiled_run_lowers_the_loss(write_config: Any, tmp_path: Any, adapter: dict[str, Any]):
    rate = 5e-2 if adapter else 5e-3
    changes = {"bf16": True, "fp8": True, "torch_compile": True, "sample_packing": True, "max_steps": 12}
    pipeline.train(config_of(write_config(**changes, learning_rate=rate, **adapter)))
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] - 0.2
