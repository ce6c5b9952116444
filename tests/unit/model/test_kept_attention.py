"""Attention that an automatic plan keeps: not computed again, and the same bits in every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from siredon.config.sections.memory import MemorySection
from siredon.model.attend import NAME, register_fast_attention
from siredon.model.recompute import (
    count_keeping,
    count_kept_attention,
    find_layers,
    recompute_activations_,
    recompute_first_,
)

NUM_LAYERS, HIDDEN, HEADS, ROWS, LENGTH = 4, 32, 4, 2, 24


class Attentions(TorchDispatchMode):
    """Counts the fused attentions that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.number += "dot_product" in name and "backward" not in name
        return func(*args, **(kwargs or {}))


def build(attention: str = NAME, **settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    register_fast_attention()
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
    }
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, **heads, attn_implementation=attention, **settings)
    return LlamaForCausalLM(config).train()


def run(model: Any, *, packed: bool = False) -> dict[str, torch.Tensor]:
    model.zero_grad()
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 64
    positions = (torch.arange(LENGTH) % (LENGTH // 2 if packed else LENGTH)).repeat(ROWS, 1)
    model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def plan(model: Any, **settings: Any) -> None:
    recompute_activations_(model, MemorySection(gradient_checkpointing="auto", **settings))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("count", "keeping"), [(4, 4), (4, 0), (3, 2), (0, 0)])
def test_only_attention_that_is_not_kept_is_computed_again(count: int, keeping: int, packed: bool):
    model = build()
    expected = run(model, packed=packed)
    plan(model)
    recompute_first_(model, count, keeping)
    assert count_keeping(model) == keeping
    with Attentions() as seen:
        found = run(model, packed=packed)
    assert seen.number == NUM_LAYERS + count - keeping
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    # Twice, as a plan is tried: nothing of the first pass is left over
    again = run(model, packed=packed)
    assert all(torch.equal(again[name], gradient) for name, gradient in expected.items())


def test_the_last_of_the_recomputed_layers_keep_theirs():
    model = build()
    plan(model)
    recompute_first_(model, 3, 2)
    layers = find_layers(model)
    assert [layer._gradient_checkpointing_func.keeps for layer in layers] == [False, True, True, False]
    recompute_first_(model, 2)
    assert count_keeping(model) == 0


def test_what_is_kept_is_counted_ahead():
    model = build()
    plan(model)
    recompute_first_(model, NUM_LAYERS)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    counted = count_kept_attention(model, lambda: model(input_ids=ids, use_cache=False))
    # The result, and the logarithm of a sum for each head, both fp32
    tokens = ROWS * LENGTH
    assert counted == NUM_LAYERS * tokens * 4 * (HIDDEN + HEADS)


@pytest.mark.parametrize(
    ("attention", "settings", "keys"),
    [
        ("eager", {}, {}),
        ("sdpa", {}, {}),
        (NAME, {"attention_dropout": 0.1}, {}),
        (NAME, {}, {"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
        (NAME, {}, {"selective_checkpointing": True}),
    ],
)
def test_where_it_cannot_be_kept_none_is(attention: str, settings: dict[str, Any], keys: dict[str, Any]):
    model = build(attention, **settings)
    plan(model, **keys)
    recompute_first_(model, NUM_LAYERS, NUM_LAYERS)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    counted = count_kept_attention(model, lambda: model(input_ids=ids, use_cache=False))
    assert counted * count_keeping(model) == 0
