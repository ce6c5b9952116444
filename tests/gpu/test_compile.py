"""On a GPU: what recorded graphs do to gradients that are summed."""

from __future__ import annotations

import pytest
import torch
from tests.unit.model.test_memory import build

from siredon.config.sections.compile import CompileSection
from siredon.hardware import probe_hardware
from siredon.model.compile import compile_layers_

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_recorded_graphs_cannot_sum_gradients(adapter: bool):
    """Why `torch_compile_mode: reduce-overhead` is refused; where this fails, PyTorch has learned it."""
    torch.compiler.reset()
    hardware = probe_hardware()
    model, base = build(adapter, dropout=0.0)
    model.to(hardware.device)
    compile_layers_(base, CompileSection(torch_compile=True, torch_compile_mode="reduce-overhead"), hardware)
    rows = torch.randint(0, 128, (4, 2, 16), device=hardware.device)
    with pytest.raises(RuntimeError, match="overwritten"):
        sum_gradients(model, rows)
    torch.compiler.reset()


def sum_gradients(model: torch.nn.Module, rows: torch.Tensor) -> None:
    """Micro-batches [batch, tokens], one after the other."""
    for ids in rows:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
