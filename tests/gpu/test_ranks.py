"""On two GPUs: gradients through fused kernels under DDP and FSDP2."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has no two GPUs"),
]


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_gradients_under_wrappers_are_those_of_the_plain_model(number_format: str):
    from tests.runs.test_kernels import measure_wrapped

    # Products in fp32 are in TensorFloat-32 in no process that has not asked for it
    for distances in measure_wrapped(number_format).values():
        for kind in ("ddp", "fsdp"):
            assert distances[kind] <= 1.5 * distances["plain"] + 5e-6
