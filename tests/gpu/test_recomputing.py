"""On a GPU the backward pass has a thread of its own: layers that run again there are told so."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from siredon.config.sections.memory import MemorySection
from siredon.hardware import probe_hardware
from siredon.model.recompute import find_layers, recompute_activations_
from siredon.ops.recomputing import is_recomputing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


class Told(torch.nn.Module):
    """Writes down in which pass its layer is, and in which thread."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[tuple[bool, int]] = []

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        self.seen.append((is_recomputing(), threading.get_ident()))
        return self.inner(*values)


@pytest.mark.parametrize("keys", [{}, {"selective_checkpointing": True}], ids=["whole", "selective"])
def test_a_layer_is_told_in_the_thread_in_which_it_runs_again(keys: dict[str, Any]):
    from tests.conftest import build_model

    # In fp32 a GPU has no single operation for attention whose heads share keys
    model = build_model(dtype=torch.bfloat16).to("cuda").train()
    recompute_activations_(model, MemorySection(gradient_checkpointing=True, **keys))
    layers = [layer.mlp for layer in find_layers(model)]
    for layer, inner in zip(find_layers(model), layers, strict=True):
        layer.mlp = Told(inner)
    ids = torch.randint(0, 500, (2, 32), device="cuda")
    model(input_ids=ids, use_cache=False).logits.float().square().mean().backward()
    here = threading.get_ident()
    for layer in find_layers(model):
        (first, one), (again, other) = layer.mlp.seen
        assert (first, again) == (False, True)
        assert one == here
        assert other != here
    assert not is_recomputing()
