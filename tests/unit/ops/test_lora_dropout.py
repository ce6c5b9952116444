"""Adapters with dropout and with a bias of their own, against the plain formula with the same masks in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
from torch.utils.checkpoint import checkpoint

from siredon.ops.recomputing import mark_recomputing
from siredon.ops.seeded_dropout import draw_seeds, keep

RATES = (0.05, 0.5, 0.3)
SEED = 11


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make_masks(shape: Sequence[int], layers: Layers, widths: Sequence[int]) -> list[Tensor | None]:
    """Those of a call that begins with the generator at `SEED`: rows are all but the last dim of `shape`."""
    if not any(lora is not None and lora.dropout for _, lora in layers):
        return [None] * len(layers)
    torch.manual_seed(SEED)
    seeds, rows = draw_seeds(len(layers), torch.device("cpu")).unbind(), torch.Size(shape[:-1])
    return [
        None
        if lora is None or not lora.dropout
        else keep(torch.ones(rows.numel(), width), seed, lora.dropout).view(*rows, width)
        for (_, lora), seed, width in zip(layers, seeds, widths, strict=True)
    ]


def ours(x: Tensor, layers: Layers, **options: Any) -> tuple[Tensor, ...]:
    torch.manual_seed(SEED)
    return fused(x, layers, **options)


def plain(x: Tensor, layers: Layers) -> list[Tensor]:
    masks = make_masks(x.shape, layers, [x.shape[-1]] * len(layers))
    return [naive(x, *one, mask) for one, mask in zip(layers, masks, strict=True)]


def ours_mlp(x: Tensor, layers: Layers, activation: str = "silu", **options: Any) -> Tensor:
    torch.manual_seed(SEED)
    return fused_mlp(x, layers, activation, **options)


def plain_mlp(x: Tensor, layers: Layers, activation: str = "silu") -> Tensor:
    widths = [weight.data.shape[1] for weight, _ in layers]
    return naive_mlp(x, layers, activation, make_masks(x.shape, layers, widths))


def assert_near(found: Sequence[Tensor], truth: Sequence[Tensor]) -> None:
    """Where few sums are made, roundings do not average out: an error is at most 17 of them."""
    for one, right in zip(found, truth, strict=True):
        assert float((one - right).norm()) <= 2e-6 * float(right.norm())


def make_layers(ranks: Sequence[int | None], drops: bool = True, **how: Any) -> Layers:
    return [
        layer(33, 17 + 10 * i, rank, 0.7 + i, bias=i != 1, dropout=RATES[i] if drops else 0.0, **how)
        for i, rank in enumerate(ranks)
    ]


def make_mlp(ranks: Sequence[int | None], drops: bool = True, **how: Any) -> Layers:
    sizes = [(33, 45), (33, 45), (45, 29)]
    return [
        layer(*size, rank, 0.5 + i, bias=i != 1, dropout=RATES[i] if drops else 0.0, **how)
        for i, (size, rank) in enumerate(zip(sizes, ranks, strict=True))
    ]


KINDS = [{"drops": True}, {"drops": False, "lora_bias": True}, {"drops": True, "lora_bias": True}]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["dropout", "bias", "both"])


@kinds
@pytest.mark.parametrize(("dtype", "base", "adapter"), FORMATS)
@pytest.mark.parametrize("ranks", [(4,), (4, 7), (3, None, 1)], ids=str)
def test_layers_of_one_input(
    dtype: Any, base: Any, adapter: Any, ranks: tuple[int | None, ...], kind: dict[str, Any]
):
    layers = make_layers(ranks, base=base, adapter=adapter, **kind)
    check(ours, plain, draw(2, 19, 33, dtype=dtype).requires_grad_(), layers)


@kinds
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("dtype", "base", "adapter"), [one for one in FORMATS if one[0] is not FP64])
@pytest.mark.parametrize("ranks", [(4, 7, 3), (None, 4, None), (None, None, 2)], ids=str)
def test_gated_mlp(
    activation: str, dtype: Any, base: Any, adapter: Any, ranks: tuple[Any, ...], kind: dict[str, Any]
):
    layers = make_mlp(ranks, base=base, adapter=adapter, **kind)
    both = partial(ours_mlp, activation=activation), partial(plain_mlp, activation=activation)
    check(*both, draw(2, 19, 33, dtype=dtype).requires_grad_(), layers)


@kinds
def test_gated_mlp_whose_adapters_are_added_by_a_kernel(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
):
    """As on a GPU, by Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._adds_while_reading", lambda *given: True)
    x, layers = draw(2, 19, 33).requires_grad_(), make_mlp((4, 7, 3), **kind)
    assert_near(run(ours_mlp, x, layers), run(plain_mlp, *in_fp64(x, layers)))


@pytest.mark.parametrize("dropped", [2, 1], ids=["down", "up"])
def test_a_mask_is_that_of_all_rows_where_memory_is_fullest(monkeypatch: pytest.MonkeyPatch, dropped: int):
    """A layer that is computed again is differentiated in halves, unless the adapter of its last part has a mask."""
    pytest.importorskip("triton")
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._adds_while_reading", lambda *given: True)
    monkeypatch.setattr("siredon.ops.lora_glu_mlp._LARGE_BYTES", 1)
    x, whole = draw(2, 19, 33).requires_grad_(), make_mlp((4, 7, 3))
    layers = [
        (weight, lora if i == dropped else replace(lora, dropout=0.0))
        for i, (weight, lora) in enumerate(whole)
    ]

    def again(x: Tensor, layers: Layers) -> Any:
        return checkpoint(ours_mlp, x, layers, use_reentrant=False, context_fn=mark_recomputing)

    assert_near(run(again, x, layers), run(plain_mlp, *in_fp64(x, layers)))


@pytest.mark.parametrize("mixed", [0, 1, 2], ids=["first", "second", "third"])
def test_one_adapter_without_dropout_among_others(mixed: int):
    for make, one, other in ((make_layers, ours, plain), (make_mlp, ours_mlp, plain_mlp)):
        layers = list(make((3, 8, 5)))
        weight, lora = layers[mixed]
        layers[mixed] = (weight, replace(lora, dropout=0.0))
        check(one, other, draw(5, 33).requires_grad_(), layers)


@pytest.mark.parametrize(
    "shape",
    [(33,), (1, 33), (0, 33), (2, 0, 33), (3, 2, 5, 33)],
    ids=["vector", "one", "none", "empty", "deep"],
)
def test_any_number_of_rows(shape: tuple[int, ...]):
    check(ours, plain, draw(*shape).requires_grad_(), make_layers((4, 2)))
    x, mlp = draw(*shape).requires_grad_(), make_mlp((4, 2, 3))
    assert_near(run(ours_mlp, x, mlp), run(plain_mlp, *in_fp64(x, mlp)))


def test_input_and_gradients_may_be_strided():
    def strided(compute: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, layers: [y.transpose(0, 1) for y in compute(x.transpose(0, 2), layers)]

    check(strided(ours), strided(plain), draw(33, 5, 6).requires_grad_(), make_layers((4, 2)))
    part = draw(5, 70)[:, 30:63].requires_grad_()
    check(ours, plain, part, make_layers((4, 2)))


def test_frozen_parts_have_no_gradient():
    layers = make_layers((4, 2), lora_bias=True)
    check(ours, plain, draw(5, 33), layers)
    layers[0][1].a.requires_grad_(False)
    layers[1][1].bias.requires_grad_(False)
    check(ours, plain, draw(5, 33).requires_grad_(), layers)


def test_a_base_that_is_trained():
    layers = make_layers((4, 2), lora_bias=True)
    for weight, _ in layers:
        weight.data.requires_grad_()
        if weight.bias is not None:
            weight.bias.requires_grad_()
    check(ours, plain, draw(5, 33).requires_grad_(), layers)
    mlp = make_mlp((4, 2, 3))
    for weight, _ in mlp:
        weight.data.requires_grad_()
    check(ours_mlp, plain_mlp, draw(7, 33).requires_grad_(), mlp)


def test_the_mean_of_many_masks_is_the_layer_without_dropout():
    """Within six standard errors of 400 draws, each output by itself."""
    x, layers = draw(4, 33), make_layers((4, 7))
    for index in range(2):
        whole = naive(x, layers[index][0], layers[index][1])
        drawn = torch.stack([fused(x, layers)[index].detach() for _ in range(400)])
        error = (drawn.mean(0) - whole).abs()
        assert bool((error <= 6 * drawn.std(0) / 400**0.5 + 1e-6).all())


def test_the_generator_decides():
    """The same state gives the same outputs, each call others; without dropout no number is drawn."""
    x, layers = draw(5, 33), make_layers((4, 7))
    torch.manual_seed(1)
    first, second = fused(x, layers), fused(x, layers)
    torch.manual_seed(1)
    again = fused(x, layers)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    state = torch.get_rng_state()
    fused(x, make_layers_without(layers))
    assert torch.equal(torch.get_rng_state(), state)


def make_layers_without(layers: Layers) -> Layers:
    return [(weight, None if lora is None else replace(lora, dropout=0.0)) for weight, lora in layers]


def test_each_adapter_has_a_mask_of_its_own():
    """Two equal layers give different outputs."""
    x, one = draw(5, 33), layer(33, 17, 4, dropout=0.5)
    first, second = fused(x, [one, one])
    assert not torch.equal(first, second)


def test_everything_is_dropped():
    x, one = draw(5, 33).requires_grad_(), layer(33, 17, 4, dropout=1.0)
    found = run(ours, x, [one])
    weight = one[0].data
    torch.testing.assert_close(found[0], x.detach() @ weight.t())
    assert not found[2].any()
    assert not found[3].any()


@pytest.mark.parametrize("skip", [False, True])
def test_checkpointing_makes_the_same_masks(skip: bool):
    x = draw(2, 19, 33).requires_grad_()
    layers = [layer(33, 33, 4, dropout=0.3), *make_mlp((4, 2, 3))]
    calls: list[bool] = []

    def block(x: Tensor) -> Tensor:
        calls.append(True)
        again = skip and len(calls) == 2
        hidden = x + fused(x, layers[:1])[0]
        return hidden.sum() + fused_mlp(hidden, layers[1:], "silu", skip_output=again)

    def run_checkpointed(x: Tensor, _: Layers) -> Tensor:
        torch.manual_seed(SEED)
        output = checkpoint(block, x, use_reentrant=False, preserve_rng_state=True)
        torch.rand(5)  # what comes between the passes
        return output

    found = run(run_checkpointed, x, layers)
    assert len(calls) == 2
    right = run(lambda x, _: (torch.manual_seed(SEED), block(x))[1], x, layers)
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)


def test_neither_mask_nor_dropped_input_is_kept():
    """Beside what is kept without dropout, 8 bytes of each adapter."""
    kept: dict[int, Tensor] = {}
    x, first, mlp = draw(50, 33).requires_grad_(), make_layers((4, 2)), make_mlp((4, 2, 3))
    own = {id(x), *(id(t) for one in (*first, *mlp) for t in (one[0].data, one[0].bias, one[1].a, one[1].b))}

    def remember(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        outputs = fused(x, first)
    assert sorted(t.numel() for t in kept.values()) == [2, 50 * 6]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = fused_mlp(x, mlp, "silu")
    assert sorted(t.numel() for t in kept.values()) == [3, 50 * 6, 50 * 45, 50 * 45]
    del outputs, output


@pytest.mark.parametrize("kind", KINDS, ids=["dropout", "bias", "both"])
def test_under_autocast(kind: dict[str, Any]):
    x, layers = draw(2, 19, 33).requires_grad_(), make_layers((4, 2), **kind)

    def cast(compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, layers: Layers) -> Any:
            with torch.autocast("cpu", BF16, enabled=x.dtype is not FP64):
                return compute(x, layers)

        return call

    truth = run(cast(plain), *in_fp64(x, layers))
    for right, usual, value in zip(
        truth, run(cast(plain), x, layers), run(cast(ours), x, layers), strict=True
    ):
        assert value.dtype == usual.dtype
        allowed = 1.5 * float((usual - right).norm()) + torch.finfo(BF16).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


@pytest.mark.long
def test_compiled_in_one_piece():
    """The masks of a compiled step are kept in the backward pass, and there are as many zeros as without a compiler."""
    x, layers, mlp = draw(16, 33).requires_grad_(), make_layers((4, 2)), make_mlp((4, 2, 3))

    def block(x: Tensor) -> tuple[Tensor, ...]:
        return (*fused(x, layers), fused_mlp(x, mlp, "silu"))

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    wanted = [x, *trained(layers), *trained(mlp)]
    for compute in (block, compiled):
        torch.manual_seed(SEED)
        outputs = compute(x)
        found = torch.autograd.grad([y.sum() for y in outputs], wanted)
        if compute is block:
            right = (outputs, found)
    torch.testing.assert_close((outputs, found), right, rtol=1e-5, atol=1e-5)


def test_formats_of_gradients():
    """An adapter in fp32 beside a base in bf16 has gradients in fp32."""
    x = draw(5, 33, dtype=BF16).requires_grad_()
    layers = make_layers((4, 2), base=BF16, adapter=FP32, lora_bias=True)
    outputs = ours(x, layers)
    gradients = torch.autograd.grad([y.sum() for y in outputs], [x, *trained(layers)])
    assert [one.dtype for one in gradients] == [BF16, *[FP32] * 6]
