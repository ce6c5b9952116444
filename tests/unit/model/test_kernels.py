"""Fused kernels on models of every family, in plain PyTorch: the loss and gradients of the model as it was, or none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import FAMILIES

from siredon.config.sections.kernels import WORDS
from siredon.hardware import probe_cpu
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation

ALL = dict.fromkeys(WORDS, True)

#: Families whose attention has a cap or sinks, which PyTorch's own function does not know.
_WITHOUT_SDPA = ("gemma2", "gpt_oss")


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    attention = "eager" if name in _WITHOUT_SDPA else "sdpa"
    model = AutoModelForCausalLM.from_config(FAMILIES[name](), attn_implementation=attention).to(dtype)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:  # ones, or zeros, would hide a weight that is forgotten
                value.add_(torch.randn(value.shape).to(dtype) * 0.1)
    return model.train()


def fuse(model: Any, wanted: dict[str, bool | None] | None = None, **situation: Any) -> Installed:
    return install_kernels_(model, ALL if wanted is None else wanted, Situation(probe_cpu(), **situation))


def learn(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch of two rows, one of them of two documents."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 512, (2, 24), generator=generator)
    positions = torch.stack([torch.arange(24), torch.cat([torch.arange(9), torch.arange(15)])])
    model.zero_grad()
    loss = model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss
    loss.backward()
    found = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    return loss.item(), found


def assert_same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        error = float((found[1][key] - value).norm() / value.norm().clamp(min=1e-6))
        assert error < tolerance, key


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "falcon_h1"])
def test_a_family_learns_as_it_does_without_kernels(name: str):
    model = build(name)
    expected = learn(model)
    installed = fuse(model)
    assert_same(learn(model), expected)
    assert any(row.choice for row in installed.rows)
    for row in installed.rows:
        assert row.choice or row.reason, row.name
        assert "other numbers" not in row.reason, row
    installed.changes.undo()
    assert all("forward" not in vars(module) for module in model.modules())
    assert type(model) is type(build(name))


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_families_that_people_train_have_every_kernel(name: str):
    rows = {row.name: row for row in fuse(build(name)).rows}
    for word in ("rms_norm", "rope", "glu"):
        assert rows[word].choice, rows[word]
    assert "with the sum before them" in rows["rms_norm"].choice


def test_layers_are_recomputed_as_before_and_keep_their_name():
    model = build("llama")
    expected = learn(model)
    fuse(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda v: v):
        found = learn(model)
    assert_same(found, expected)
    assert type(model.model.layers[0]).__name__ == "LlamaDecoderLayer"
    model.gradient_checkpointing_disable()
    few = len(kept)
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda v: v):
        learn(model)
    assert len(kept) - few > few


def test_a_cpu_takes_none_unless_it_is_asked_to():
    model = build("llama")
    rows = fuse(model, dict.fromkeys(WORDS)).rows
    assert not any(row.choice for row in rows)
    assert {row.reason for row in rows} == {"no GPU: PyTorch's own is used"}
    rows = {row.name: row for row in fuse(model, {**dict.fromkeys(WORDS, False), "rope": True}).rows}
    assert rows["rope"].choice
    assert rows["glu"].reason == "ruled out by the config"


def test_a_layer_that_computes_something_else_is_left_as_it_is():
    model = build("llama")
    norm = model.model.layers[1].input_layernorm
    norm.forward = lambda hidden: hidden * 2 * norm.weight
    attention = model.model.layers[0].self_attn
    attention.scaling = attention.scaling  # the same: no difference
    expected = learn(model)
    rows = {row.name: row for row in fuse(model).rows}
    assert "other numbers" in rows["rms_norm"].reason
    assert_same(learn(model), expected)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_two_models_of_one_class_do_not_share_kernels(name: str):
    one, other = build(name), build(name)
    fuse(one)
    assert all("forward" not in vars(module) for module in other.modules())
    assert type(other.model.layers[0]) is not type(one.model.layers[0])


def test_attention_of_a_model_with_other_names_is_left_as_it_is():
    from transformers import GPT2Config, GPT2LMHeadModel

    from siredon.model.blocks import read_blocks
    from siredon.model.kernel import Changes
    from siredon.model.kernels.attention import install

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64))
    outcome = install(read_blocks(model), Situation(probe_cpu()), Changes())
    assert not outcome.num_places
    assert "of no kind that is known" in next(iter(outcome.reasons))


def test_attention_by_the_table_is_put_on_and_taken_off():
    from siredon.model.attend import NAME
    from siredon.model.blocks import read_blocks
    from siredon.model.kernel import Changes
    from siredon.model.kernels.attention import install

    model, changes = build("llama").double(), Changes()
    expected = learn(model)
    assert install(read_blocks(model), Situation(probe_cpu()), changes).num_places == 2
    assert model.config._attn_implementation == NAME
    assert_same(learn(model), expected)
    changes.undo()
    assert model.config._attn_implementation == "sdpa"
