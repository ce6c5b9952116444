"""Every optimizer of the shelf on a GPU: the losses of the CPU, bit for bit after a resume, pages and 8-bit floats."""

from __future__ import annotations

import gc
import importlib.util
import json
from typing import Any

import pytest
import torch
from tests.unit.train.test_optimizers import (
    GOLDEN,
    STEPS,
    WORDS,
    Problem,
    build,
    dtype_of,
    plan_of,
    saved,
    take_steps,
)

from siredon.config.optimizer_words import find_package
from siredon.hardware import probe_hardware

DEVICE = probe_hardware().device
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
#: Their random projections and rounding are drawn on the device, by another generator than that of the CPU.
#: What is drawn, or rounded to 8 bits from state near zero, is another on a GPU.
DRAWN = ("apollo_adamw", "apollo_adamw_layerwise", "adamw_bf16_sr", "rmsprop_bnb_8bit")


def marked(name: str) -> Any:
    """An optimizer, skipped where the optional package is missing that it is of."""
    package = find_package(name)
    is_missing = package is not None and importlib.util.find_spec(package) is None
    return pytest.param(
        name, marks=pytest.mark.skipif(is_missing, reason=f"the package {package} is not installed")
    )


@pytest.mark.parametrize("name", list(map(marked, WORDS)))
def test_an_optimizer_has_the_losses_of_the_cpu_and_goes_on_bit_for_bit(name: str):
    torch.use_deterministic_algorithms(True, warn_only=True)
    plan = plan_of(name)
    model = Problem().to(DEVICE, dtype_of(name))
    optimizer = build(model, plan)
    losses = take_steps(model, optimizer, range(STEPS // 2))
    other = Problem().to(DEVICE, dtype_of(name))
    resumed = build(other, plan)
    resumed.load_state_dict(resumed.state_dict())
    other.load_state_dict(saved(model.state_dict()))
    resumed.load_state_dict(saved(optimizer.state_dict()))
    rest = range(STEPS // 2, STEPS)
    losses += take_steps(model, optimizer, rest)
    assert take_steps(other, resumed, rest) == losses[STEPS // 2 :]
    golden = json.loads(GOLDEN.read_text())[name]
    if name in DRAWN:
        assert losses[-1] < 0.5 * losses[0]
    else:
        assert losses == pytest.approx(golden, rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", [marked(word) for word in WORDS if word.startswith("paged_")])
def test_the_state_of_a_large_matrix_is_paged(name: str):
    large = torch.nn.Linear(1024, 1024, bias=False, device=DEVICE)
    optimizer = build(_Wrapped(large), plan_of(name))
    large(torch.ones(2, 1024, device=DEVICE)).sum().backward()
    before = large.weight.detach().clone()
    optimizer.step()
    assert optimizer.state[large.weight]["state1"].is_paged
    assert not torch.equal(before, large.weight)


def test_states_in_few_bits_are_as_small_as_they_say():
    bytes_of: dict[str, float] = {}
    names = ("adamw_torch", "ao_adamw_8bit", "ao_adamw_fp8", "ao_adamw_4bit", "adamw_bnb_8bit")
    for package in filter(None, map(find_package, names)):
        pytest.importorskip(package)
    for name in names:
        large = torch.nn.Linear(2048, 2048, bias=False, device=DEVICE)
        optimizer = build(_Wrapped(large), plan_of(name))
        large(torch.ones(2, 2048, device=DEVICE)).sum().backward()
        optimizer.step()
        large.weight.grad = None
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        del optimizer
        gc.collect()
        bytes_of[name] = (before - torch.cuda.memory_allocated()) / 2048**2
    assert bytes_of["adamw_torch"] == pytest.approx(8, abs=0.1)
    for name in ("ao_adamw_8bit", "ao_adamw_fp8", "adamw_bnb_8bit"):
        assert bytes_of[name] == pytest.approx(2, abs=0.4), name
    assert bytes_of["ao_adamw_4bit"] == pytest.approx(1, abs=0.1)


class _Wrapped(torch.nn.Module):
    """A layer that is neither embedding nor head."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def get_input_embeddings(self) -> Any:
        return None

    def get_output_embeddings(self) -> Any:
        return None
