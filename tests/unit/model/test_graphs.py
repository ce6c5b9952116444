"""What a model whose layers are recorded does around them; the recording itself needs a GPU (`tests/gpu`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.unit.model.test_memory import build

from siredon.model.graphs import prepare_recording_
from siredon.model.recompute import find_layers


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_run_as_they_are_without_training_and_gradients_are_copies() -> None:
    torch.compiler.reset()
    runs: list[int] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph(*args)

        return run

    model, base = build(False, dropout=0.0)
    ids = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for layer in find_layers(base):
        layer.compile(backend=compiler)
    prepare_recording_(base)
    model.train()
    given: dict[str, int] = {}
    for name, weight in model.named_parameters():
        weight.register_hook(lambda gradient, name=name: given.update({name: gradient.data_ptr()}))
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    in_training = len(runs)
    assert in_training > 0
    for name, weight in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(weight.grad, expected[name])
    model.eval()
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    assert len(runs) == in_training
    model.train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert len(runs) > in_training
    torch.compiler.reset()
