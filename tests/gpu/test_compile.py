"""On a GPU: layers that are recorded as graphs train as those that are not."""

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
def test_recorded_graphs_sum_gradients_and_write_answers(adapter: bool):
    """Over micro-batches, with answers between the steps, as without graphs."""
    plain, recorded = (train(adapter, mode) for mode in (None, "reduce-overhead"))
    assert plain[1] == recorded[1]
    for one, other in zip(plain[0], recorded[0], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def train(adapter: bool, mode: str | None) -> tuple[list[torch.Tensor], list[int]]:
    """Gradients of the third step, summed over four micro-batches [batch, tokens], and an answer."""
    torch.compiler.reset()
    hardware = probe_hardware()
    model, base = build(adapter, dropout=0.0)
    model.to(hardware.device)
    said = compile_layers_(base, CompileSection(torch_compile=True, torch_compile_mode=mode), hardware)
    assert ("recorded as graphs" in said) == (mode is not None)
    rows = torch.randint(0, 128, (4, 2, 16), generator=torch.Generator().manual_seed(0)).to(hardware.device)
    for _ in range(3):
        model.zero_grad()
        model.train()
        for ids in rows:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.eval()
        answer = model.generate(
            input_ids=rows[0, :1], max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=True
        )
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    torch.compiler.reset()
    return gradients, answer[0].tolist()
