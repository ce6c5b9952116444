"""Layers with DoRA against the plain formula, with the sum of weight and adapter, in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from tests.lora_layers import BF16, FORMATS, FP32, FP64, Layers, draw, fused, layer, widen
from torch import Tensor
from torch.nn.functional import gelu, linear, silu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.dora import dora_glu_mlp, dora_linears, measure_rows
from siredon.ops.gains import scale_outputs
from siredon.ops.lora_linear import EightBits, Lora, Weight
from siredon.ops.seeded_dropout import draw_seeds, keep

SEED = 11
Case = tuple[Layers, list[Tensor | None]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(sizes: Sequence[tuple[int, int]], ranks: Sequence[int | None], **how: Any) -> Case:
    """Layers and their magnitudes, some tenths away from the lengths of their rows."""
    rates = how.pop("rates", (0.0,) * len(ranks))
    layers = [
        layer(*size, rank, 0.7 + i, bias=i != 1, dropout=rate, **how)
        for i, (size, rank, rate) in enumerate(zip(sizes, ranks, rates, strict=True))
    ]
    magnitudes = [
        None
        if lora is None
        else (measure_directly(weight, lora) * (1 + 0.3 * draw(weight.data.shape[0], dtype=FP64)))
        .detach()
        .to(how.get("adapter", FP32))
        .requires_grad_()
        for weight, lora in layers
    ]
    return layers, magnitudes


def make_three(ranks: Sequence[int | None] = (4, 7, 2), **how: Any) -> Case:
    return make([(33, 17 + 10 * i) for i in range(len(ranks))], ranks, **how)


def make_mlp(ranks: Sequence[int | None] = (4, 7, 2), **how: Any) -> Case:
    return make([(33, 45), (33, 45), (45, 29)], ranks, **how)


def measure_directly(weight: Weight, lora: Lora) -> Tensor:
    return (weight.data.double() + lora.scale * lora.b.double() @ lora.a.double()).norm(dim=1).detach()


def naive(x: Tensor, one: tuple[Weight, Lora | None], magnitude: Tensor | None, seed: Tensor) -> Tensor:
    """PEFT's chain under autocast: products in the format of the input, lengths and gains in fp32."""
    weight, lora = one
    base = linear(x, weight.data.to(x.dtype), None if weight.bias is None else weight.bias.to(x.dtype))
    if lora is None:
        return base
    mask = 1.0
    if lora.dropout:
        kept = keep(torch.ones(x.shape[:-1].numel(), x.shape[-1]), seed, lora.dropout)
        mask = kept.view(x.shape).to(x.dtype) / (1 - lora.dropout)
    seen = x * mask
    added = linear(linear(seen, lora.a.to(x.dtype)), lora.b.to(x.dtype))
    if magnitude is None:
        return base + added * lora.scale
    wide = torch.promote_types(x.dtype, FP32)
    delta = (lora.b.to(x.dtype) @ lora.a.to(x.dtype)).to(wide)
    lengths = (weight.data.to(wide) + lora.scale * delta).norm(dim=1).detach()
    gains = magnitude.to(wide) / lengths
    bare = base if weight.bias is None else base - weight.bias
    plain = linear(seen, weight.data.to(x.dtype)) if lora.dropout else bare
    return (base + (gains - 1) * plain + gains * added * lora.scale).to(x.dtype)


def each(x: Tensor, case: Case) -> list[Tensor]:
    torch.manual_seed(SEED)
    layers, magnitudes = case
    # Drawn for plain adapters first, where there are some, as for layers without magnitudes
    plain = [
        lora is not None and lora.dropout > 0 and m is None
        for (_, lora), m in zip(layers, magnitudes, strict=True)
    ]
    assert not any(plain)
    seeds = draw_seeds(len(layers), torch.device("cpu"))
    return [naive(x, one, m, seed) for one, m, seed in zip(layers, magnitudes, seeds.unbind(), strict=True)]


def each_mlp(x: Tensor, case: Case, activation: str = "silu") -> Tensor:
    torch.manual_seed(SEED)
    (first, second, third), (m, n, o) = case
    seeds = [*draw_seeds(2, torch.device("cpu")).unbind(), *draw_seeds(1, torch.device("cpu")).unbind()]
    gate, up = naive(x, first, m, seeds[0]), naive(x, second, n, seeds[1])
    act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
    return naive(act * up, third, o, seeds[2])


def ours(x: Tensor, case: Case) -> tuple[Tensor, ...]:
    torch.manual_seed(SEED)
    layers, magnitudes = case
    return dora_linears(x, [weight for weight, _ in layers], [lora for _, lora in layers], magnitudes)


def ours_mlp(x: Tensor, case: Case, activation: str = "silu") -> Tensor:
    torch.manual_seed(SEED)
    layers, magnitudes = case
    return dora_glu_mlp(
        x, [weight for weight, _ in layers], [lora for _, lora in layers], magnitudes, activation
    )


def trained(case: Case) -> list[Tensor]:
    found = [tensor for tensor in case[1] if tensor is not None]
    for weight, lora in case[0]:
        found += [tensor for tensor in (weight.data, weight.bias) if tensor is not None]
        found += [] if lora is None else [lora.a, lora.b]
    return [tensor for tensor in found if tensor.requires_grad]


def in_fp64(x: Tensor, case: Case) -> tuple[Tensor, Case]:
    layers, magnitudes = case
    wide = [
        (
            Weight(widen(weight.data), None if weight.bias is None else widen(weight.bias)),
            None if lora is None else Lora(widen(lora.a), widen(lora.b), lora.scale, lora.dropout),
        )
        for weight, lora in layers
    ]
    return widen(x), (wide, [None if one is None else widen(one) for one in magnitudes])


def run(compute: Callable[..., Any], x: Tensor, case: Case) -> list[Tensor]:
    """Outputs, and gradients of the input and of all that is trained."""
    outputs = compute(x, case)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    generator = torch.Generator().manual_seed(7)
    above = [torch.randn(y.shape, dtype=FP64, generator=generator).to(BF16).to(y.dtype) for y in outputs]
    wanted = ([x] if x.requires_grad else []) + trained(case)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, wanted, above)]


def check(one: Callable[..., Any], other: Callable[..., Any], x: Tensor, case: Case) -> None:
    """Our error against fp64 is at most that of the plain chain in the same format, but for half and a rounding."""
    truth, theirs, found = run(other, *in_fp64(x, case)), run(other, x, case), run(one, x, case)
    assert len(found) == len(truth)
    for right, usual, value in zip(truth, theirs, found, strict=True):
        assert value.shape == right.shape
        assert value.dtype == usual.dtype
        eps = torch.finfo(x.dtype).eps * (4 if x.dtype is FP64 else 1)
        assert float((value - right).norm()) <= 1.5 * float((usual - right).norm()) + eps * float(
            right.norm()
        )


RATES = [(0.0, 0.0, 0.0), (0.3, 0.05, 0.5), (0.3, 0.0, 0.5)]
rates = pytest.mark.parametrize("rates", RATES, ids=["whole", "dropout", "some dropout"])
formats = pytest.mark.parametrize(("dtype", "base", "adapter"), FORMATS)


@rates
@formats
@pytest.mark.parametrize("ranks", [(4, 7, 2), (3, None, 1)], ids=str)
def test_layers_of_one_input(dtype: Any, base: Any, adapter: Any, ranks: Any, rates: Any):
    case = make_three(ranks, base=base, adapter=adapter, rates=rates)
    check(ours, each, draw(2, 19, 33, dtype=dtype).requires_grad_(), case)


@rates
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("dtype", "base", "adapter"), [one for one in FORMATS if one[0] is not FP64])
def test_gated_mlp(activation: str, dtype: Any, base: Any, adapter: Any, rates: Any):
    case = make_mlp(base=base, adapter=adapter, rates=rates)
    both = partial(ours_mlp, activation=activation), partial(each_mlp, activation=activation)
    check(*both, draw(2, 19, 33, dtype=dtype).requires_grad_(), case)


@rates
@pytest.mark.parametrize("shape", [(33,), (1, 33), (0, 33), (2, 0, 33), (3, 2, 5, 33)], ids=str)
def test_any_number_of_rows(shape: tuple[int, ...], rates: Any):
    x, case = draw(*shape).requires_grad_(), make_three(rates=rates)
    for found, right in zip(run(ours, x, case), run(each, *in_fp64(x, case)), strict=True):
        assert float((found - right).norm()) <= 2e-6 * float(right.norm())


@rates
def test_input_and_gradients_may_be_strided(rates: Any):
    def strided(compute: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, case: [y.transpose(0, 1) for y in compute(x.transpose(0, 2), case)]

    check(strided(ours), strided(each), draw(33, 5, 6).requires_grad_(), make_three(rates=rates))


def test_a_plain_adapter_and_a_layer_without_one_among_them():
    layers, magnitudes = make_three((4, 7, None))
    check(ours, each, draw(2, 19, 33).requires_grad_(), (layers, [magnitudes[0], None, None]))


@rates
def test_frozen_and_trained_parts(rates: Any):
    case = make_three(rates=rates)
    layers, magnitudes = case
    check(ours, each, draw(2, 19, 33), case)
    layers[0][1].a.requires_grad_(False)
    magnitudes[1].requires_grad_(False)
    check(ours, each, draw(2, 19, 33).requires_grad_(), case)
    for weight, _ in layers:
        weight.data.requires_grad_()
        if weight.bias is not None:
            weight.bias.requires_grad_()
    check(ours, each, draw(2, 19, 33).requires_grad_(), case)


@rates
def test_under_autocast(rates: Any):
    x, case = draw(2, 19, 33).requires_grad_(), make_three(rates=rates)

    def cast(compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, case: Case) -> Any:
            narrow = x if x.dtype is FP64 else x.to(BF16)
            with torch.autocast("cpu", BF16, enabled=x.dtype is not FP64):
                return compute(narrow if compute is each else x, case)

        return call

    truth = run(cast(each), *in_fp64(x, case))
    for right, usual, value in zip(truth, run(cast(each), x, case), run(cast(ours), x, case), strict=True):
        assert value.dtype == usual.dtype
        allowed = 1.5 * float((usual - right).norm()) + torch.finfo(BF16).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


@rates
def test_checkpointing(rates: Any):
    x, first, mlp = draw(2, 19, 33).requires_grad_(), make_three(rates=rates), make_mlp(rates=rates)

    def block(x: Tensor) -> Tensor:
        layers, magnitudes = first
        outputs = dora_linears(x, [one for one, _ in layers], [two for _, two in layers], magnitudes)
        layers, magnitudes = mlp
        return sum(y.sum() for y in outputs) + dora_glu_mlp(
            x, [one for one, _ in layers], [two for _, two in layers], magnitudes, "silu"
        )

    def seeded(compute: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, _: Case) -> Tensor:
            torch.manual_seed(SEED)
            return compute(x)

        return call

    both = ([*first[0], *mlp[0]], [*first[1], *mlp[1]])
    found = run(seeded(lambda x: checkpoint(block, x, use_reentrant=False)), x, both)
    torch.testing.assert_close(found, run(seeded(block), x, both), rtol=1e-6, atol=1e-6)


@rates
@pytest.mark.parametrize("kept", ["aten.mm.default", "siredon.keep.default", "siredon.scale_outputs.default"])
def test_selective_checkpointing_keeps_results(kept: str, rates: Any):
    """What it keeps is what the operation gave: an adapter that is added into it would be added twice."""
    x, case = draw(5, 33).requires_grad_(), make_three(rates=rates)
    plain = case[0]
    seen: set[str] = set()

    def decide(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        seen.add(str(operation))
        return CheckpointPolicy.MUST_SAVE if str(operation) == kept else CheckpointPolicy.PREFER_RECOMPUTE

    def block(x: Tensor) -> Tensor:
        outputs = dora_linears(x, [one for one, _ in plain], [two for _, two in plain], case[1])
        return sum(y.sum() for y in (*outputs, *fused(x, plain)))

    def seeded(compute: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, _: Case) -> Tensor:
            torch.manual_seed(SEED)
            return compute(x)

        return call

    contexts = partial(create_selective_checkpoint_contexts, decide)
    recomputed = seeded(lambda x: checkpoint(block, x, use_reentrant=False, context_fn=contexts))
    found = run(recomputed, x, case)
    assert (kept in seen) == (kept != "siredon.keep.default" or any(rates))
    torch.testing.assert_close(found, run(seeded(block), x, case))


@pytest.mark.parametrize("dtype", [FP64, FP32, BF16])
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_lengths_are_those_of_the_sum(dtype: torch.dtype, strength: float):
    """To some roundings of fp32, whether the adapter is small beside the weight or large."""
    weight, lora = layer(200, 3000, 8, strength, base=dtype)
    assert lora is not None
    found, right = (
        measure_rows(weight, lora, torch.promote_types(dtype, FP32)).detach(),
        measure_directly(weight, lora),
    )
    assert float(((found - right) / right).abs().max()) < (1e-12 if dtype is FP64 else 1e-6)


def test_lengths_where_the_adapter_takes_most_of_the_weight_away():
    """What is left is a hundredth of either: two digits of four fewer than those of the sum."""
    weight, lora = layer(200, 3000, 8)
    assert lora is not None
    left = Weight(weight.data / 100 - lora.scale * (lora.b @ lora.a).detach())
    found, right = measure_rows(left, lora, FP32).detach(), measure_directly(left, lora)
    assert float(((found - right) / right).abs().max()) < 1e-2


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@rates
def test_weights_in_few_bits(kind: str, rates: Any):
    """As by the widened weight."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layers, magnitudes = make([(64, 32), (64, 96), (64, 64)], (4, 2, 3), rates=rates)
    packed, wide = [], []
    for weight, lora in layers:
        if kind == "nf4":
            data, state = bitsandbytes.functional.quantize_4bit(weight.data, quant_type="nf4")
            whole = bitsandbytes.functional.dequantize_4bit(data, state)
        else:
            data, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.data.half())
            product = bitsandbytes.MatmulLtState(CB=data, SCB=scales)
            product.has_fp16_weights, product.is_training = False, True
            state, whole = EightBits(product), data.float() * (scales.unsqueeze(1) / 127)
        packed.append((Weight(data, weight.bias, state), lora))
        wide.append((Weight(whole, weight.bias), lora))
    x = draw(5, 64).requires_grad_()
    found, right = run(ours, x, (packed, magnitudes)), run(each, x, (wide, magnitudes))
    torch.testing.assert_close(found, right, rtol=2e-5, atol=2e-5)


def test_what_is_kept():
    """Beside what plain layers keep, one output of each, and with dropout a seed: neither mask nor dropped input."""
    kept: dict[int, int] = {}
    x = draw(50, 33).requires_grad_()
    for rates, own in (((0.0, 0.0), [50 * 6]), ((0.3, 0.3), [1, 1, 50 * 4, 50 * 2])):
        layers, magnitudes = case = make_three((4, 2), rates=rates)
        known = {
            t.data_ptr()
            for one in layers
            for t in (one[0].data, one[0].bias, one[1].a, one[1].b)
            if t is not None
        }
        known |= {x.data_ptr(), *(one.data_ptr() for one in magnitudes)}
        kept.clear()

        def remember(tensor: Tensor, known: set[int] = known) -> Tensor:
            if tensor.data_ptr() not in known:
                kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            outputs = ours(x, case)
        large = sorted(size for size in kept.values() if size not in (17, 27))  # gains and lengths
        assert large == sorted([*own, 50 * 17, 50 * 27])
        del outputs


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_rest", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 130), (70, 33), (300, 7), (0, 7)], ids=str)
def test_kernels_of_gains(shape: tuple[int, int], has_bias: bool, has_rest: bool):
    """In Triton's interpreter, with strides, against fp64."""
    pytest.importorskip("triton")
    from siredon.ops.gains_kernels import launch_backward, launch_scale

    y, above = draw(shape[0], 2 * shape[1])[:, : shape[1]], draw(*reversed(shape)).t()
    gains, bias = draw(shape[1]), draw(shape[1]) if has_bias else None
    rest = draw(*shape) if has_rest else None
    right = y.double() * gains.double()
    for part in (bias, rest):
        right = right if part is None else right + part.double()
    torch.testing.assert_close(launch_scale(y, gains, bias, rest).double(), right, rtol=1e-6, atol=1e-6)
    to_y, to_gains = launch_backward(above, y, gains)
    torch.testing.assert_close(to_y.double(), above.double() * gains.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(to_gains.double(), (above.double() * y.double()).sum(0), rtol=1e-5, atol=1e-5)


def test_gradients_of_gains_by_differences():
    given = [draw(3, 5, dtype=FP64), draw(5, dtype=FP64), draw(5, dtype=FP64), draw(3, 5, dtype=FP64)]
    leaves = [one.requires_grad_() for one in given]
    assert torch.autograd.gradcheck(lambda y, g, b, r: scale_outputs(y, g, bias=b, rest=r), leaves)


@pytest.mark.long
def test_compiled_in_one_piece():
    x, case, mlp = draw(16, 33).requires_grad_(), make_three(rates=(0.3, 0.0, 0.5)), make_mlp()

    def block(x: Tensor) -> tuple[Tensor, ...]:
        one, two = [[weight for weight, _ in layers] for layers, _ in (case, mlp)]
        three, four = [[lora for _, lora in layers] for layers, _ in (case, mlp)]
        return (*dora_linears(x, one, three, case[1]), dora_glu_mlp(x, two, four, mlp[1], "silu"))

    wanted = [x, *trained(case), *trained(mlp)]
    results = []
    for compute in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(SEED)
        outputs = compute(x)
        results.append((outputs, torch.autograd.grad([y.sum() for y in outputs], wanted)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
