"""A whole tiny model whose adapters are not plain LoRA: it learns by the kernels what it learns by PEFT's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.lora_models import KEYS, adapt, assert_same, build, build_base, check, fuse, learn, replay_, round_
from torch import Tensor, nn

from siredon.model.kernels.lora_linear import build_glu_mlp, build_linears, read_linear


@pytest.mark.parametrize("kind", KEYS)
def test_a_model_learns_as_by_peft(kind: str):
    check(build(**KEYS[kind]))


@pytest.mark.parametrize("kind", KEYS)
def test_under_autocast(kind: str):
    adapted = build(**KEYS[kind])
    installed = fuse(adapted)
    found = learn(adapted, autocast=True)
    installed.changes.undo()
    if "lora_dropout" in KEYS[kind]:
        replay_(adapted)
    expected = learn(adapted, autocast=True)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    assert_same(found, expected, 0.04)


#: On a CPU bitsandbytes rounds the inputs of weights in 8 bits where the model answers, and not where it is trained.
@pytest.mark.parametrize("kind", ["plain", *KEYS])
@pytest.mark.parametrize(("bits", "lean"), [(4, False), (8, True), (8, False)], ids=["4", "8", "8 by theirs"])
def test_beside_weights_in_few_bits(bits: int, kind: str, lean: bool):
    if bits == 8 and "dora" in kind:
        pytest.skip("on a CPU PEFT's DoRA loses the scales of weights in 8 bits")
    adapted = adapt(round_(build_base(), bits, lean), **KEYS.get(kind, {}))
    check(adapted, asks=0.05 if bits == 8 else 2e-5)


def test_8_bits_under_autocast_are_left_to_the_modules_where_the_input_is_wide():
    """bitsandbytes knows no autocast: it multiplies in the format that comes."""
    layer = adapt(round_(build_base(), 8)).get_base_model().model.layers[0].self_attn.q_proj
    fused, x = build_linears([layer]), torch.randn(5, 64)
    assert not isinstance(fused, str)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x)[0], layer(x), rtol=0, atol=0)
        assert fused(x.bfloat16())[0].dtype is torch.bfloat16


def test_8_bits_where_the_model_answers():
    """There bitsandbytes rounds the inputs."""
    layer = adapt(round_(build_base(), 8)).get_base_model().model.layers[0].self_attn.q_proj
    fused, x = build_linears([layer]), torch.randn(5, 64)
    assert not isinstance(fused, str)
    trained = layer(x)
    layer.eval()
    torch.testing.assert_close(fused(x)[0], layer(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(layer(x), trained, rtol=1e-4, atol=1e-4)


def test_8_bits_that_are_held_in_16_are_no_frozen_weight():
    package = pytest.importorskip("bitsandbytes.nn")
    assert "Linear8bitLt" in str(read_linear(package.Linear8bitLt(8, 8, has_fp16_weights=True)))
    assert "not yet quantized" in str(read_linear(package.Linear8bitLt(8, 8, has_fp16_weights=False)))


def test_8_bits_in_bf16_are_no_further_from_fp64_than_by_peft():
    adapted = adapt(round_(build_base(), 8))
    layer = adapted.get_base_model().model.layers[0].mlp
    for one in (layer.gate_proj, layer.up_proj, layer.down_proj):
        one.to(torch.bfloat16)
    fused = build_glu_mlp(layer.gate_proj, layer.up_proj, layer.down_proj, "silu")
    assert not isinstance(fused, str)
    modules = [layer.gate_proj, layer.up_proj, layer.down_proj]
    wide = [widen(module) for module in modules]

    def by_formula(x: Tensor) -> Tensor:
        gate, up = wide[0](x), wide[1](x)
        output: Tensor = wide[2](nn.functional.silu(gate) * up)
        return output

    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    truth = differentiate(by_formula, x.double(), wide)
    theirs, ours = differentiate(layer, x, modules), differentiate(fused, x, modules)
    assert len(ours) == len(theirs) == len(truth) == 8
    for right, usual, value in zip(truth, theirs, ours, strict=True):
        assert value.dtype == usual.dtype
        allowed = 1.5 * float((usual - right).norm()) + torch.finfo(torch.bfloat16).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


def widen(module: Any) -> Any:
    """A layer as plain LoRA in fp64, its weights in 8 bits widened."""
    base = module.base_layer
    scales = base.weight.SCB if base.state.SCB is None else base.state.SCB
    whole = nn.Linear(base.in_features, base.out_features, dtype=torch.float64)
    whole.weight.data = base.weight.data.double() * scales.double().unsqueeze(1) / 127
    whole.bias.data = base.bias.data.double()
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"])
    wide = get_peft_model(nn.Sequential(whole), config, autocast_adapter_dtype=False).get_base_model()[0]
    for name in ("lora_A", "lora_B"):
        pair = wide._modules[name]["default"], module._modules[name]["default"]
        pair[0].weight.data = pair[1].weight.data.double()
    return wide


def differentiate(compute: Any, x: Tensor, modules: list[Any]) -> list[Tensor]:
    """The output of an MLP, and the gradients of its input and its adapters."""
    x = x.clone().requires_grad_()
    output = compute(x)
    weights = [one._modules[name]["default"].weight for one in modules for name in ("lora_A", "lora_B")]
    above = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, [x, *weights], above)]


def test_kernels_are_tried_without_dropout():
    """Also where the model is already set to be trained; and it is set so afterwards."""
    adapted = build(lora_dropout=0.5).train()
    rows = fuse(adapted).rows
    assert not any("other numbers" in row.reason for row in rows)
    assert all(module.training for module in adapted.modules())
