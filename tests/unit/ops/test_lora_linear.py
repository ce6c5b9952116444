"""Linear layers with adapters, and gated MLPs of them, against the plain formula in fp64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from tests.lora_layers import (
    BF16,
    FORMATS,
    FP32,
    FP64,
    Layers,
    check,
    draw,
    each,
    fused,
    fused_mlp,
    in_fp64,
    layer,
    naive,
    naive_mlp,
    run,
    trained,
)
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.lora_linear import EightBits, Lora, Weight
from siredon.ops.recomputing import mark_recomputing


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("dtype", "base", "adapter"), FORMATS)
@pytest.mark.parametrize("ranks", [(4,), (4, 7), (3, 8, 1), (4, None, 2), (None,)], ids=str)
def test_layers_of_one_input(
    dtype: torch.dtype, base: torch.dtype, adapter: torch.dtype, ranks: tuple[int | None, ...]
):
    how = {"base": base, "adapter": adapter}
    layers = [layer(33, 17 + 10 * i, rank, 0.7 + i, bias=i != 1, **how) for i, rank in enumerate(ranks)]
    check(fused, each, draw(2, 19, 33, dtype=dtype).requires_grad_(), layers)


@pytest.mark.parametrize(
    "shape",
    [(33,), (1, 33), (0, 33), (2, 0, 33), (3, 2, 5, 33)],
    ids=["vector", "one", "none", "empty", "deep"],
)
def test_any_number_of_rows(shape: tuple[int, ...]):
    layers = [layer(33, 17, 4), layer(33, 9, 2)]
    check(fused, each, draw(*shape).requires_grad_(), layers)
    check(lambda x, layers: fused_mlp(x, layers, "silu"), lambda x, layers: naive_mlp(x, layers, "silu"),
          draw(*shape).requires_grad_(), [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, 3)])  # fmt: skip


def test_input_and_gradients_may_be_strided():
    def strided(compute: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, layers: [y.transpose(0, 1) for y in compute(x.transpose(0, 2), layers)]

    check(strided(fused), strided(each), draw(33, 5, 6).requires_grad_(), [layer(33, 17, 4), layer(33, 9, 2)])


def test_gradient_of_a_sum_is_expanded():
    x, layers = draw(5, 33).requires_grad_(), [layer(33, 17, 4)]
    found = torch.autograd.grad(fused(x, layers)[0].sum(), [x, *trained(layers)])
    right = torch.autograd.grad(each(x, layers)[0].sum(), [x, *trained(layers)])
    torch.testing.assert_close(found, right)


def test_frozen_parts_have_no_gradient():
    layers = [layer(33, 17, 4), layer(33, 9, 2)]
    check(fused, each, draw(5, 33), layers)
    layers[0][1].a.requires_grad_(False)
    layers[1][1].b.requires_grad_(False)
    check(fused, each, draw(5, 33).requires_grad_(), layers)
    layers[1][1].a.requires_grad_(False)
    check(fused, each, draw(5, 33), layers)


def train(layers: Layers, kinds: str) -> None:
    """Has the weights, the biases or both trained; the adapters are anyway."""
    for weight, _ in layers:
        weight.data.requires_grad_("weight" in kinds)
        if weight.bias is not None:
            weight.bias.requires_grad_("bias" in kinds)


@pytest.mark.parametrize("kinds", ["weight", "bias", "weight and bias"])
@pytest.mark.parametrize(("dtype", "base", "adapter"), FORMATS)
@pytest.mark.parametrize("ranks", [(None,), (None, None, None), (4, 7), (4, None, 2)], ids=str)
def test_weights_and_biases_that_are_trained(
    kinds: str, dtype: torch.dtype, base: torch.dtype, adapter: torch.dtype, ranks: tuple[int | None, ...]
):
    how = {"base": base, "adapter": adapter}
    layers = [layer(33, 17 + 10 * i, rank, 0.7 + i, bias=i != 1, **how) for i, rank in enumerate(ranks)]
    train(layers, kinds)
    check(fused, each, draw(2, 19, 33, dtype=dtype).requires_grad_(), layers)
    check(fused, each, draw(2, 19, 33, dtype=dtype), layers)


def test_one_weight_that_is_trained_among_frozen_ones():
    layers = [layer(33, 17, None), layer(33, 9, 2), layer(33, 12, None, bias=True)]
    layers[2][0].data.requires_grad_()
    layers[1][1].a.requires_grad_(False)
    check(fused, each, draw(5, 33).requires_grad_(), layers)


@pytest.mark.parametrize("kinds", ["weight", "bias", "weight and bias"])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("dtype", "base", "adapter"), [one for one in FORMATS if one[0] is not FP64])
@pytest.mark.parametrize("ranks", [(None, None, None), (4, 7, 3), (None, 4, None), (4, 2, None)], ids=str)
def test_gated_mlp_that_is_trained(
    kinds: str, activation: str, dtype: Any, base: Any, adapter: Any, ranks: tuple[int | None, ...]
):
    how = {"base": base, "adapter": adapter, "bias": True}
    sizes = [(33, 45), (33, 45), (45, 29)]
    layers = [
        layer(*size, rank, 0.5 + i, **how) for i, (size, rank) in enumerate(zip(sizes, ranks, strict=True))
    ]
    train(layers, kinds)
    ours, plain = partial(fused_mlp, activation=activation), partial(naive_mlp, activation=activation)
    check(ours, plain, draw(2, 19, 33, dtype=dtype).requires_grad_(), layers)


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("kinds", ["", "weight and bias"], ids=["frozen", "trained"])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated_mlp_whose_adapters_are_added_by_a_kernel(
    monkeypatch: pytest.MonkeyPatch, rank: int | None, kinds: str, activation: str
):
    """As on a GPU, by Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._adds_while_reading", lambda *given: True)
    layers = [
        layer(33, 45, 4, 0.5, bias=True),
        layer(33, 45, 7, 1.5, bias=True),
        layer(45, 29, rank, bias=True),
    ]
    train(layers, kinds)
    x = draw(2, 19, 33).requires_grad_()
    ours = run(partial(fused_mlp, activation=activation), x, layers)
    truth = run(partial(naive_mlp, activation=activation), *in_fp64(x, layers))
    for found, right in zip(ours, truth, strict=True):
        assert float((found - right).norm()) <= 2e-6 * float(right.norm())


@pytest.mark.parametrize(("num_rows", "kinds"), [(19, ""), (1, ""), (19, "weight")])
def test_halves_of_a_gated_mlp_that_is_computed_again(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, kinds: str
):
    """Where memory is fullest, half of the rows are differentiated at a time: the sums are those of all of them."""
    pytest.importorskip("triton")
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._adds_while_reading", lambda *given: True)
    layers = [layer(33, 45, 4, 0.5), layer(33, 45, 7, 1.5), layer(45, 29, 3, bias=True)]
    train(layers, kinds)
    x = draw(num_rows, 33).requires_grad_()

    def again(x: Tensor, layers: Any) -> tuple[Tensor, ...]:
        found: Any = checkpoint(
            partial(fused_mlp, activation="silu"), x, layers, use_reentrant=False, context_fn=mark_recomputing
        )
        return found

    whole = run(again, x, layers)
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._LARGE_BYTES", 1)
    launched: list[int] = []
    kernels = "siredon.ops.low_rank_glu_kernels"
    launch = import_module(kernels).launch_backward_
    monkeypatch.setattr(
        f"{kernels}.launch_backward_",
        lambda wide, *rest: [launched.append(len(wide[0])), launch(wide, *rest)],
    )
    halves = run(again, x, layers)
    assert launched == ([19] if kinds else [1] if num_rows == 1 else [10, 9])
    for found, right in zip(halves, whole, strict=True):
        assert float((found - right).norm()) <= 2e-6 * float(right.norm())


@pytest.mark.parametrize("which", [0, 1, 2], ids=["gate", "up", "down"])
def test_gated_mlp_of_which_one_layer_is_trained(which: int):
    layers = [layer(33, 17, None), layer(33, 17, 2), layer(17, 33, None, bias=True)]
    layers[which][0].data.requires_grad_()
    check(partial(fused_mlp, activation="silu"), partial(naive_mlp, activation="silu"), draw(5, 33), layers)


@pytest.mark.parametrize("rank", [3, None])
def test_a_skipped_mlp_that_is_trained_has_its_gradients(rank: int | None):
    """The product of gate and up is not computed again, but the gradient of the last weight needs it."""
    x, layers = draw(5, 33).requires_grad_(), [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, rank)]
    train(layers, "weight")
    found = run(lambda x, y: fused_mlp(x, y, "silu", skip_output=True), x, layers)
    right = run(lambda x, y: fused_mlp(x, y, "silu"), x, layers)
    torch.testing.assert_close(found[1:], right[1:], rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("dtype", "base", "adapter"), [one for one in FORMATS if one[0] is not FP64])
@pytest.mark.parametrize("ranks", [(4, 7, 3), (None, 4, None), (None, None, 2), (None, None, None)], ids=str)
def test_gated_mlp(activation: str, dtype: Any, base: Any, adapter: Any, ranks: tuple[int | None, ...]):
    sizes = [(33, 45), (33, 45), (45, 29)]
    how = {"base": base, "adapter": adapter, "bias": True}
    layers = [
        layer(*size, rank, 0.5 + i, **how) for i, (size, rank) in enumerate(zip(sizes, ranks, strict=True))
    ]
    x = draw(2, 19, 33, dtype=dtype).requires_grad_()
    check(
        lambda x, layers: fused_mlp(x, layers, activation),
        lambda x, layers: naive_mlp(x, layers, activation),
        x,
        layers,
    )


def test_gated_mlp_of_a_frozen_input():
    layers = [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, 3)]
    check(lambda x, layers: fused_mlp(x, layers, "silu"), lambda x, layers: naive_mlp(x, layers, "silu"),
          draw(5, 33), layers)  # fmt: skip


def test_only_small_things_are_kept():
    """Beside what lives anyway: the input, the outputs of gate and up, and the input's products with `a`."""
    kept: dict[int, Tensor] = {}
    x, layers = draw(50, 33).requires_grad_(), [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, 3)]
    own = {id(x), *(id(t) for weight, lora in layers for t in (weight.data, lora.a, lora.b))}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = fused(x, layers[:2])
    assert sorted(t.numel() for t in kept.values()) == [50 * 6]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = fused_mlp(x, layers, "silu")
    assert sorted(t.numel() for t in kept.values()) == [50 * 6, 50 * 17, 50 * 17]
    del outputs, output


def test_autocast_casts_the_input_and_the_gradient_returns_in_fp32():
    x, layers = draw(2, 19, 33).requires_grad_(), [layer(33, 17, 4), layer(33, 9, 2)]

    def cast(compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, layers: Layers) -> Any:
            with torch.autocast("cpu", BF16, enabled=x.dtype is not FP64):
                return compute(x, layers)

        return call

    truth, theirs, found = (
        run(cast(each), *in_fp64(x, layers)),
        run(cast(each), x, layers),
        run(cast(fused), x, layers),
    )
    assert found[0].dtype is BF16
    assert found[2].dtype is FP32
    for right, usual, value in zip(truth, theirs, found, strict=True):
        allowed = 1.5 * float((usual - right).norm()) + torch.finfo(BF16).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


def test_the_backward_pass_ignores_autocast():
    x, layers = draw(5, 33).requires_grad_(), [layer(33, 17, 4)]
    right = torch.autograd.grad(each(x, layers)[0].sum(), [x, *trained(layers)])
    output = fused(x, layers)[0].sum()
    with torch.autocast("cpu", BF16):
        found = torch.autograd.grad(output, [x, *trained(layers)])
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("skip", [False, True])
def test_checkpointing_without_the_last_output(skip: bool):
    """A layer that is computed again need not compute the value of its last part: no gradient reads it."""
    x = draw(2, 19, 33).requires_grad_()
    layers = [layer(33, 33, 4), layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, 3)]
    calls: list[bool] = []

    def block(x: Tensor) -> Tensor:
        calls.append(True)
        again = skip and len(calls) > 1
        hidden = x + fused(x, layers[:1])[0]
        return hidden + fused_mlp(hidden, layers[1:], "silu", skip_output=again)

    def plain(x: Tensor) -> Tensor:
        hidden = x + naive(x, *layers[0])
        return hidden + naive_mlp(hidden, layers[1:], "silu")

    found = run(lambda x, _: checkpoint(block, x, use_reentrant=False), x, layers)
    assert len(calls) == 2
    torch.testing.assert_close(found, run(lambda x, _: plain(x), x, layers), rtol=1e-4, atol=1e-4)


def test_skipped_outputs_keep_the_graph():
    """Gradients do not depend on what the outputs hold."""
    x, layers = draw(2, 5, 33).requires_grad_(), [layer(33, 17, 4), layer(33, 9, None)]
    found, right = run(lambda x, y: fused(x, y, skip_output=True), x, layers), run(fused, x, layers)
    assert [y.shape for y in found[:2]] == [y.shape for y in right[:2]]
    torch.testing.assert_close(found[2:], right[2:], rtol=0, atol=0)


@pytest.mark.parametrize("rank", [3, None])
def test_a_skipped_mlp_keeps_the_graph(rank: int | None):
    x, layers = draw(5, 33).requires_grad_(), [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, rank)]
    found = run(lambda x, y: fused_mlp(x, y, "silu", skip_output=True), x, layers)
    right = run(lambda x, y: fused_mlp(x, y, "silu"), x, layers)
    assert found[0].shape == right[0].shape
    torch.testing.assert_close(found[1:], right[1:], rtol=0, atol=0)


@pytest.mark.parametrize("kept", ["aten.mm.default", "siredon.glu.default"])
def test_selective_checkpointing_keeps_results(kept: str):
    """What it keeps is what the operation gave: an adapter that is added into it would be added twice."""
    layers = [layer(33, 17, 4), layer(33, 17, 2), layer(17, 33, 3)]
    x = draw(5, 33).requires_grad_()
    seen: set[str] = set()

    def decide(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        seen.add(str(operation))
        return CheckpointPolicy.MUST_SAVE if str(operation) == kept else CheckpointPolicy.PREFER_RECOMPUTE

    def block(x: Tensor) -> Tensor:
        return fused_mlp(x, layers, "silu") + sum(y.sum() for y in fused(x, layers[:2]))

    contexts = partial(create_selective_checkpoint_contexts, decide)
    found = run(lambda x, _: checkpoint(block, x, use_reentrant=False, context_fn=contexts), x, layers)
    assert kept in seen
    torch.testing.assert_close(found, run(lambda x, _: block(x), x, layers))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_in_4_bits(kind: str):
    bitsandbytes = pytest.importorskip("bitsandbytes.functional")
    layers = [layer(64, 32, 4, bias=True), layer(64, 32, 2), layer(32, 64, None)]
    packed: list[tuple[Weight, Lora | None]] = []
    wide: list[tuple[Weight, Lora | None]] = []
    for weight, lora in layers:
        data, state = bitsandbytes.quantize_4bit(weight.data, quant_type=kind, compress_statistics=True)
        packed.append((Weight(data, weight.bias, state), lora))
        wide.append((Weight(bitsandbytes.dequantize_4bit(data, state), weight.bias), lora))
    x = draw(5, 64).requires_grad_()
    torch.testing.assert_close(run(fused, x, packed[:2]), run(fused, x, wide[:2]), rtol=0, atol=0)
    found, right = (run(lambda x, y: fused_mlp(x, y, "silu"), x, one) for one in (packed, wide))
    torch.testing.assert_close(found, right, rtol=0, atol=0)
    skipped = fused(x, packed[:1], skip_output=True)
    assert skipped[0].shape == (5, 32)


@pytest.mark.parametrize("trains", [True, False], ids=["trained", "asked"])
def test_weights_in_8_bits(trains: bool):
    """Products are those of bitsandbytes, which rounds inputs where the model answers; gradients, of wide weights."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layers = [layer(64, 32, 4, bias=True), layer(64, 32, 2), layer(32, 64, None)]
    packed: list[tuple[Weight, Lora | None]] = []
    wide: list[tuple[Weight, Lora | None]] = []
    for weight, lora in layers:
        data, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.data.half())
        state = bitsandbytes.MatmulLtState(CB=data, SCB=scales)
        state.has_fp16_weights, state.is_training = False, trains
        packed.append((Weight(data, weight.bias, EightBits(state)), lora))
        wide.append((Weight(data.float() * (scales.unsqueeze(1) / 127), weight.bias), lora))
    x = draw(5, 64).requires_grad_()
    found, right = run(fused, x, packed[:2]), run(fused, x, wide[:2])
    torch.testing.assert_close(found[2:], right[2:])
    for index in (0, 1):
        product = bitsandbytes.matmul(x, packed[index][0].data, state=packed[index][0].state.state)
        added = right[index] - x @ wide[index][0].data.t()
        torch.testing.assert_close(found[index], (product + added).detach(), rtol=1e-5, atol=1e-5)
        assert trains == torch.allclose(found[index], right[index], rtol=1e-5, atol=1e-5)
    found, right = (run(lambda x, y: fused_mlp(x, y, "silu"), x, one) for one in (packed, wide))
    tolerance = {} if trains else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(found, right, **tolerance)
    assert fused(x, packed[:1], skip_output=True)[0].shape == (5, 32)
