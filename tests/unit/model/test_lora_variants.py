"""A whole tiny model whose adapters are not plain LoRA: it learns by the kernels what it learns by PEFT's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from siredon.config.sections.kernels import WORDS
from siredon.hardware import probe_cpu
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation
from siredon.model.kernels.lora_linear import build_glu_mlp, build_linears, read_linear
from siredon.ops.seeded_dropout import draw_seeds, keep

WANTED = {**dict.fromkeys(WORDS, False), "lora_linear": True, "glu": True}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEED = 17


def build(**keys: Any) -> Any:
    """A Llama of two layers with biases, and LoRA as after some steps."""
    return adapt(build_base(), **keys)


def build_base() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.08,
        attention_bias=True,
        mlp_bias=True,
    )
    return LlamaForCausalLM(config)


def adapt(model: Any, **keys: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=ALL, **keys))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "bias" in name or "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
            elif "magnitude" in name:
                weight.mul_(1 + 0.1 * torch.randn(weight.shape))
    return adapted.train()


def fuse(adapted: Any) -> Installed:
    return install_kernels_(adapted.get_base_model(), WANTED, Situation(probe_cpu()))


def learn(adapted: Any, autocast: bool = False) -> list[Tensor]:
    """Loss and gradients of a batch, with the generator at `SEED`."""
    ids = torch.randint(3, 128, (2, 24), generator=torch.Generator().manual_seed(1))
    adapted.zero_grad()
    torch.manual_seed(SEED)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = adapted(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = [weight.grad.clone() for weight in adapted.parameters() if weight.grad is not None]
    return [loss.detach(), *gradients]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-7


class Replayed(nn.Module):
    """Dropout that keeps what the kernels keep, as its seed says."""

    def __init__(self, rate: float, seed: Tensor) -> None:
        super().__init__()
        self.rate, self.seed = rate, seed

    def forward(self, x: Tensor) -> Tensor:
        mask = keep(torch.ones(x.shape[:-1].numel(), x.shape[-1]), self.seed, self.rate)
        return x * (mask.view(x.shape) / (1 - self.rate)).to(x.dtype)


def replay_(adapted: Any) -> None:
    """Puts the masks of the kernels into PEFT's modules: seeds are drawn for q, k and v, for o, and for an MLP."""
    torch.manual_seed(SEED)
    for layer in adapted.get_base_model().model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for modules in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj, mlp.down_proj),
        ):
            for module, seed in zip(
                modules, draw_seeds(len(modules), torch.device("cpu")).unbind(), strict=True
            ):
                module.lora_dropout["default"] = Replayed(module.lora_dropout["default"].p, seed)


def check(adapted: Any, tolerance: float = 2e-5, asks: float = 2e-5) -> None:
    """Trained and asked, with and without recomputation: what PEFT's modules give; and the table says all are in."""
    drops = any(isinstance(module, nn.Dropout) for module in adapted.modules())
    asked = learn(adapted.eval())
    adapted.train()
    expected = None if drops else learn(adapted)
    installed = fuse(adapted)
    (row,) = [row for row in installed.rows if row.name == "lora_linear"]
    assert (row.choice, row.reason) == ("14 layers", "")
    assert_same(learn(adapted.eval()), asked, asks)
    found = learn(adapted.train())
    base = adapted.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted.enable_input_require_grads()
    assert_same(learn(adapted), found, 1e-6)
    base.gradient_checkpointing_disable()
    installed.changes.undo()
    if expected is None:
        replay_(adapted)
        expected = learn(adapted)
    assert_same(found, expected, tolerance)


def round_(model: Any, bits: int, lean: bool = True) -> Any:
    """Holds the weights of all layers but the head as bitsandbytes does."""
    package = pytest.importorskip("bitsandbytes.nn")
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        sizes = module.in_features, module.out_features
        if bits == 8:
            packed = package.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
            packed.weight = package.Int8Params(
                module.weight.data, requires_grad=False, has_fp16_weights=False
            )
        else:
            packed = package.Linear4bit(*sizes, quant_type="nf4", compute_dtype=torch.float32)
            packed.weight = package.Params4bit(module.weight.data, quant_type="nf4", requires_grad=False)
            packed.weight.module = packed
            packed.support_avx512bf16_for_cpu = False
        packed.bias = module.bias
        model.set_submodule(name, packed.to("cpu"))
    if bits == 8:
        model.is_loaded_in_8bit = True
        if lean:
            from siredon.model.products_8bit import keep_no_inputs_

            keep_no_inputs_(model)
    else:
        model.is_loaded_in_4bit = True
    return model


KEYS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3},
    "bias": {"lora_bias": True},
    "dropout and bias": {"lora_dropout": 0.3, "lora_bias": True},
    "dora": {"use_dora": True},
    "dora and dropout": {"use_dora": True, "lora_dropout": 0.3},
}


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
