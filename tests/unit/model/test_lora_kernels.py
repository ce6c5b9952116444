"""Layers of a tiny model with PEFT's adapters, computed by the fused ops: the same numbers, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.variants import ALoraLinearVariant
from tests.conftest import build_model
from torch import Tensor, nn

from siredon.model.kernels.lora_linear import Linear, build_glu_mlp, build_linears, read_linear

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
X = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(3))


def adapt(targets: list[str] = ALL, **keys: Any) -> Any:
    """A Llama with LoRA whose B are not zero, as after some steps."""
    adapted = get_peft_model(build_model(), LoraConfig(r=4, lora_alpha=6, target_modules=targets, **keys))
    torch.manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return adapted


def first_layer(adapted: Any) -> Any:
    return adapted.get_base_model().model.layers[0]


def parts_of(adapted: Any) -> tuple[list[Any], Any]:
    """q, k and v of the first layer, and its MLP."""
    layer = first_layer(adapted)
    attention = layer.self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj], layer.mlp


def run(adapted: Any, compute: Callable[[Tensor], Any]) -> list[Tensor]:
    """Outputs, and the gradients of the input and of all adapters."""
    x = X.clone().requires_grad_()
    outputs = compute(x)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    adapted.zero_grad()
    sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() for y in outputs).backward()
    gradients = [weight.grad for weight in adapted.parameters() if weight.grad is not None]
    assert x.grad is not None
    return [*(y.detach() for y in outputs), x.grad, *gradients]


def check(adapted: Any) -> None:
    """q, k and v at once, o alone, and the MLP are what PEFT's modules make of it."""
    projections, mlp = parts_of(adapted)
    fused, alone = build_linears(projections), build_linears([first_layer(adapted).self_attn.o_proj])
    whole = build_glu_mlp(mlp.gate_proj, mlp.up_proj, mlp.down_proj, "silu")
    assert not isinstance(fused, str), fused
    assert not isinstance(alone, str), alone
    assert not isinstance(whole, str), whole
    output = first_layer(adapted).self_attn.o_proj
    pairs = [(fused, lambda x: [one(x) for one in projections]), (alone, output), (whole, mlp)]
    for ours, theirs in pairs:
        found, right = run(adapted, ours), run(adapted, theirs)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"targets": ["q_proj", "v_proj"]},
        {"targets": ["down_proj"]},
        {"use_rslora": True},
        {"rank_pattern": {"k_proj": 2, "up_proj": 7}, "alpha_pattern": {"v_proj": 11}},
    ],
    ids=["all", "q and v", "down", "rslora", "patterns"],
)
def test_what_peft_computes(keys: dict[str, Any]):
    check(adapt(**keys))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype: torch.dtype):
    adapted = adapt().to(dtype)
    projections, _ = parts_of(adapted)
    fused = build_linears(projections)
    with torch.autocast("cpu", torch.bfloat16):
        found, right = run(adapted, fused), run(adapted, lambda x: [one(x) for one in projections])
    assert [one.dtype for one in found] == [one.dtype for one in right]
    for ours, theirs in zip(found, right, strict=True):
        assert float((ours - theirs).float().norm()) < 0.02 * float(theirs.float().norm())


@pytest.mark.parametrize("keys", [{}, {"targets": ["q_proj", "up_proj"]}], ids=["all", "some"])
def test_base_weights_that_are_trained_beside_adapters(keys: dict[str, Any]):
    adapted = adapt(**keys)
    for name, weight in adapted.named_parameters():
        weight.requires_grad_("lora_" in name or "_proj" in name)
    check(adapted)


def test_a_model_without_adapters_that_is_trained():
    model = build_model().requires_grad_(True)
    layer = model.model.layers[0]
    projections = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    fused = build_linears(projections)
    whole = build_glu_mlp(layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj, "silu")
    assert not isinstance(fused, str)
    assert not isinstance(whole, str)
    for ours, theirs in ((fused, lambda x: [one(x) for one in projections]), (whole, layer.mlp)):
        torch.testing.assert_close(run(model, ours), run(model, theirs), rtol=1e-4, atol=1e-5)


def test_a_base_that_is_trained_later_is_still_computed_by_the_ops():
    adapted = adapt()
    projections, _ = parts_of(adapted)
    fused = build_linears(projections)
    assert not isinstance(fused, str)
    projections[0].base_layer.requires_grad_(True)
    found, right = run(adapted, fused), run(adapted, lambda x: [one(x) for one in projections])
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_parameters_are_read_at_each_call():
    adapted = adapt()
    projections, _ = parts_of(adapted)
    fused = build_linears(projections)
    assert not isinstance(fused, str)
    fused(X)
    projections[0].lora_B["default"].weight = nn.Parameter(torch.ones(64, 4))
    projections[1].base_layer.weight = nn.Parameter(torch.ones(32, 64), requires_grad=False)
    projections[2].scaling["default"] = 5.0
    torch.testing.assert_close(list(fused(X)), [one(X) for one in projections], rtol=1e-4, atol=1e-5)


def tripled(module: Any, args: Any, output: Tensor) -> Tensor:
    return output * 3


def hook(projection: Any) -> None:
    projection.lora_A["default"].register_forward_hook(tripled)


def hook_gradient(projection: Any) -> None:
    projection.register_full_backward_hook(lambda module, to_input, to_output: (to_input[0] * 3,))


def replace_forward(projection: Any) -> None:
    old = projection.forward
    projection.forward = lambda x: old(x) * 2


CHANGES = [
    lambda projection: projection.enable_adapters(False),
    lambda projection: projection.merge(),
    hook,
    hook_gradient,
    replace_forward,
    lambda projection: projection.set_adapter([]),
]


@pytest.mark.parametrize(
    "change",
    CHANGES,
    ids=["disabled", "merged", "hook", "hook of the gradient", "forward", "inactive"],
)
def test_what_changes_later_is_seen(change: Callable[[Any], None]):
    """The modules are called as they are, and the ops again where that is undone; without an adapter the ops go on."""
    adapted = adapt()
    projections, mlp = parts_of(adapted)
    fused, whole = (
        build_linears(projections),
        build_glu_mlp(mlp.gate_proj, mlp.up_proj, mlp.down_proj, "silu"),
    )
    assert not isinstance(fused, str)
    assert not isinstance(whole, str)
    change(projections[0])
    change(mlp.up_proj)
    found, right = run(adapted, fused), run(adapted, lambda x: [one(x) for one in projections])
    near = {"rtol": 1e-5, "atol": 1e-6} if change is CHANGES[0] else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, right, **near)
    found, right = run(adapted, whole), run(adapted, mlp)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


def test_disabled_and_enabled_again():
    adapted = adapt()
    projections, _ = parts_of(adapted)
    fused = build_linears(projections)
    assert not isinstance(fused, str)
    before = fused(X)
    with adapted.disable_adapter():
        torch.testing.assert_close(fused(X), tuple(one.base_layer(X) for one in projections), rtol=0, atol=0)
    torch.testing.assert_close(fused(X), before, rtol=0, atol=0)


def test_a_switched_off_adapter_and_one_of_zeros_give_the_same_bits():
    """As a policy at its start and its reference do, of which a loss takes the difference."""
    adapted = adapt().to(torch.bfloat16)
    projections, mlp = parts_of(adapted)
    for part in (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        nn.init.zeros_(part.lora_B["default"].weight)
    layers = build_linears(projections), build_glu_mlp(mlp.gate_proj, mlp.up_proj, mlp.down_proj, "silu")
    x = X.to(torch.bfloat16)
    for fused in layers:
        assert not isinstance(fused, str)
        with_zeros = fused(x)
        with adapted.disable_adapter():
            torch.testing.assert_close(fused(x), with_zeros, rtol=0, atol=0)


def with_second_adapter(adapted: Any) -> None:
    adapted.add_adapter("second", LoraConfig(r=4, target_modules=ALL))
    adapted.base_model.set_adapter(["default", "second"])


def first_projection(adapted: Any) -> Any:
    return parts_of(adapted)[0][0]


REASONS: list[tuple[dict[str, Any], Callable[[Any], Any], str]] = [
    (
        {"lora_dropout": 0.1},
        lambda adapted: first_projection(adapted).lora_dropout.update({"default": nn.AlphaDropout(0.1)}),
        "an unknown dropout on the adapter's input",
    ),
    (
        {"lora_dropout": 0.1},
        lambda adapted: first_projection(adapted).lora_dropout["default"].register_forward_hook(tripled),
        "hook",
    ),
    (
        {},
        lambda adapted: first_projection(adapted).lora_variant.update(default=ALoraLinearVariant()),
        "another kind: ALoraLinearVariant",
    ),
    (
        {"use_dora": True},
        lambda adapted: (
            first_projection(adapted).lora_magnitude_vector["default"].register_forward_hook(tripled)
        ),
        "hook",
    ),
    ({}, with_second_adapter, "its active adapters are"),
    ({}, lambda adapted: adapted.merge_adapter(), "merged"),
    ({}, lambda adapted: hook(first_projection(adapted)), "hook"),
    ({}, lambda adapted: replace_forward(first_projection(adapted)), "hook"),
    (
        {},
        lambda adapted: nn.utils.parametrize.register_parametrization(
            first_projection(adapted).base_layer, "weight", nn.Identity()
        ),
        "beside a layer of type",
    ),
    (
        {},
        lambda adapted: nn.utils.parametrize.register_parametrization(
            first_projection(adapted).lora_A["default"], "weight", nn.Identity()
        ),
        "an adapter of type",
    ),
]


@pytest.mark.parametrize(("keys", "change", "reason"), REASONS, ids=[reason for *_, reason in REASONS])
def test_reasons(keys: dict[str, Any], change: Callable[[Any], Any], reason: str):
    adapted = adapt(**keys)
    change(adapted)
    projections, mlp = parts_of(adapted)
    found = read_linear(projections[0])
    assert isinstance(found, str)
    assert reason in found
    assert build_linears(projections) == found
    assert build_glu_mlp(projections[0], mlp.up_proj, mlp.down_proj, "silu") == found


def test_layers_of_other_kinds():
    class Own(nn.Linear):
        pass

    assert "Own" in str(read_linear(Own(4, 4).requires_grad_(False)))
    assert "Embedding" in str(read_linear(nn.Embedding(4, 4)))
    assert isinstance(read_linear(nn.Linear(4, 4)), Linear)
    assert isinstance(read_linear(nn.Linear(4, 4).requires_grad_(False)), Linear)
    saved = adapt(["q_proj"], modules_to_save=["k_proj"])
    assert "ModulesToSaveWrapper" in str(read_linear(parts_of(saved)[0][1]))


def test_weights_of_other_formats():
    torchao = pytest.importorskip("torchao.quantization")
    layer = nn.Sequential(nn.Linear(64, 64).requires_grad_(False))
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    assert "a weight of type" in str(read_linear(layer[0]))


def quantized(**keys: Any) -> Any:
    bitsandbytes = pytest.importorskip("bitsandbytes.nn")
    model = build_model()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            packed = bitsandbytes.Linear4bit(
                module.in_features, module.out_features, bias=False, quant_type="nf4", **keys
            )
            packed.weight = bitsandbytes.Params4bit(module.weight.data, quant_type="nf4", requires_grad=False)
            packed.weight.module = packed
            packed.support_avx512bf16_for_cpu = False
            model.set_submodule(name, packed.to("cpu"))
    model.is_loaded_in_4bit = True
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=ALL))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return adapted


def test_weights_in_4_bits():
    check(quantized(compute_dtype=torch.float32))


def test_4_bits_in_another_format_are_left_to_the_modules():
    """bitsandbytes computes in a format of its own where it is told so."""
    adapted = quantized(compute_dtype=torch.bfloat16)
    projections, _ = parts_of(adapted)
    fused = build_linears(projections)
    assert not isinstance(fused, str)
    torch.testing.assert_close(list(fused(X)), [one(X) for one in projections], rtol=0, atol=0)


@pytest.mark.long
def test_compiled_without_breaks():
    adapted = adapt()
    projections, mlp = parts_of(adapted)
    fused, whole = (
        build_linears(projections),
        build_glu_mlp(mlp.gate_proj, mlp.up_proj, mlp.down_proj, "silu"),
    )
    assert not isinstance(fused, str)
    assert not isinstance(whole, str)

    def block(x: Tensor) -> tuple[Tensor, ...]:
        return (*fused(x), whole(x))

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(adapted, compiled), run(adapted, block))
