"""Which number formats a run has, on which hardware."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siredon.config.sections.precision import PrecisionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.precision import Precision, hold_norms_in_fp32_, resolve_precision

CPU = Hardware("cpu", "a CPU", 1, False, False, 1)
NEW = Hardware("cuda", "a new GPU", 1, True, True, 1)
OLD = Hardware("cuda", "an old GPU", 1, False, False, 1)
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("keys", "hardware", "expected"),
    [
        ({}, NEW, Precision(BRAIN, "bf16", True)),
        ({}, OLD, Precision(SINGLE, None, False)),
        ({"bf16": False}, NEW, Precision(SINGLE, None, True)),
        ({"tf32": False}, NEW, Precision(BRAIN, "bf16", False)),
        ({"tf32": True}, OLD, Precision(SINGLE, None, False)),
        ({"bf16": "full"}, CPU, Precision(BRAIN, None, False, is_pure=True)),
        ({"bfloat16": True}, NEW, Precision(BRAIN, None, True, is_pure=True)),
        ({"float16": True}, OLD, Precision(HALF, None, False, is_pure=True)),
        ({"float32": True}, NEW, Precision(SINGLE, None, True, is_pure=True)),
        ({"fp16": True}, OLD, Precision(HALF, "fp16", False)),
    ],
)
def test_keys_and_hardware_decide_the_formats(keys: dict[str, Any], hardware: Hardware, expected: Precision):
    assert resolve_precision(PrecisionSection(**keys), hardware, has_adapter=True) == expected


@pytest.mark.parametrize(
    ("keys", "way_out"), [({"bf16": True}, "fp16: true"), ({"bf16": "full"}, "float32: true")]
)
def test_a_format_that_a_gpu_does_not_have_is_refused(keys: dict[str, Any], way_out: str):
    with pytest.raises(ModelError, match="an old GPU has no bfloat16") as caught:
        resolve_precision(PrecisionSection(**keys), OLD, has_adapter=True)
    assert way_out in caught.value.fix


def test_a_norm_computes_in_fp32_and_gives_back_what_it_was_given():
    class GatedRMSNorm(torch.nn.Module):
        """Takes a second tensor, which stays as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(64, dtype=BRAIN))

        def forward(self, hidden: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            assert (hidden.dtype, gate.dtype, self.weight.dtype) == (SINGLE, BRAIN, SINGLE)
            return hidden * self.weight * gate

    layers = torch.nn.ModuleList(
        [torch.nn.LayerNorm(64).to(BRAIN), GatedRMSNorm(), torch.nn.Linear(64, 64).to(BRAIN)]
    )
    torch.nn.init.normal_(layers[0].weight)
    hidden = (3 + torch.randn(5, 64)).to(BRAIN)
    exact = layers[0].weight.double() * torch.nn.functional.layer_norm(hidden.double(), (64,))
    assert hold_norms_in_fp32_(layers, ("RMSNorm", "LayerNorm")) == 2
    found = layers[0](hidden)
    assert found.dtype == BRAIN
    assert torch.equal(found, exact.to(BRAIN))
    assert layers[1](hidden, hidden).dtype == BRAIN
    assert layers[2].weight.dtype == BRAIN
