from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.precision import PrecisionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.float8 import convert_linears_, use_float8_products_

CPU = Hardware("cpu", "test", 1, False, False, 1)
LORA = AdapterSection(adapter="lora", lora_r=16, lora_alpha=32, lora_target_linear=True)


def gradients(model: Any) -> torch.Tensor:
    """All of them, end to end."""
    ids = torch.arange(64).reshape(2, 32) * 7 % 500
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapter", [AdapterSection(), LORA], ids=["full", "lora"])
def test_gradients_are_those_of_whole_products_but_for_rounding_to_8_bits(adapter: AdapterSection):
    plain = attach_adapter_(build_model(), adapter, seed=1)
    base = build_model()
    names = set(base.state_dict())
    assert convert_linears_(base, emulate=True) == 14  # seven in each of two layers; not the head
    assert set(base.state_dict()) == names
    assert type(base.lm_head) is torch.nn.Linear
    rounded = attach_adapter_(base, adapter, seed=1)
    expected, found = gradients(plain), gradients(rounded)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.2  # e4m3 has three bits behind the point: each product is off by some per cent


def test_a_machine_without_8_bit_floats_is_refused():
    use_float8_products_(build_model(), PrecisionSection(), CPU)
    with pytest.raises(ModelError, match=r"`fp8: true` needs a GPU with 8-bit floats"):
        use_float8_products_(build_model(), PrecisionSection(fp8=True), CPU)


@pytest.mark.filterwarnings("ignore")
def test_the_rounding_of_a_token_does_not_depend_on_others():
    from tests.unit.train.steps import build_steps_trainer

    from siredon.train.isolation import find_leak

    model = build_model()
    convert_linears_(model, emulate=True)
    assert find_leak(build_steps_trainer(model, flatten=False), 2) is None
