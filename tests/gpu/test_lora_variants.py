"""On a GPU: adapters with dropout, DoRA and weights in 8 bits; errors against fp64, what is kept, and whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.lora_models import KEYS, adapt, build, build_base, check, round_
from torch import Tensor
from torch.nn.functional import linear, silu

from siredon.hardware import GPU, probe_hardware
from siredon.ops.dora import dora_glu_mlp, dora_linears, measure_rows
from siredon.ops.gains import scale_outputs
from siredon.ops.lora_glu_mlp import lora_glu_mlp
from siredon.ops.lora_linear import EightBits, Lora, Weight, lora_linears
from siredon.ops.seeded_dropout import add_kept_, draw_seeds, keep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

RATE = 0.05
SEED = 11


def draw(*shape: int, size: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=probe_hardware().device).mul_(size).to(dtype)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(4096, 4096), (1023, 14336), (77, 333), (1, 5)])
def test_masks(shape: tuple[int, int]):
    """The same in every format and tile, as many as asked for, and where a product is added."""
    seed = draw_seeds(1, torch.device(GPU))[0]
    mask = keep(torch.ones(shape, device=GPU), seed, 0.3)
    x = draw(*shape)
    assert torch.equal(keep(x, seed, 0.3), x * mask.bfloat16())
    assert torch.equal(keep(x.float(), seed, 0.3), x.float() * mask)
    assert abs(float(mask.mean()) - 0.7) < 5 * (0.21 / mask.numel()) ** 0.5
    for rank in (16, 100):
        back, a = draw(shape[0], rank), draw(rank, shape[1])
        total, right = torch.zeros(shape, device=GPU), (back.double() @ a.double()) * mask
        add_kept_(total, back.float(), a.float(), seed, 0.3)
        torch.testing.assert_close(total.double(), right, rtol=1e-4, atol=1e-4)
        narrow = torch.zeros(shape, device=GPU, dtype=torch.bfloat16)
        add_kept_(narrow, back, a, seed, 0.3)
        assert float((narrow - right).norm()) <= 0.004 * float(right.norm())


def make(sizes: list[tuple[int, int]], rate: float) -> tuple[list[Weight], list[Lora], list[Tensor]]:
    weights, loras, magnitudes = [], [], []
    for inputs, outputs in sizes:
        weights.append(Weight(draw(outputs, inputs, size=inputs**-0.5)))
        a = draw(16, inputs, size=inputs**-0.5, dtype=torch.float32).requires_grad_()
        b = draw(outputs, 16, size=0.25, dtype=torch.float32).requires_grad_()
        loras.append(Lora(a, b, 1.7, rate))
        lengths = measure_rows(weights[-1], loras[-1], torch.float32).detach()
        magnitudes.append((lengths * (1 + draw(outputs, size=0.1, dtype=torch.float32))).requires_grad_())
    return weights, loras, magnitudes


def naive(x: Tensor, weight: Weight, lora: Lora, magnitude: Tensor | None, seed: Tensor) -> Tensor:
    """PEFT's chain under autocast; in fp64 the truth."""
    base = linear(x, weight.data.to(x.dtype))
    seen = x
    if lora.dropout:
        seen = x * (keep(torch.ones(x.shape, device=x.device), seed, lora.dropout) / (1 - lora.dropout)).to(
            x.dtype
        )
    added = linear(linear(seen, lora.a.to(x.dtype)), lora.b.to(x.dtype))
    if magnitude is None:
        return base + added * lora.scale
    wide = torch.promote_types(x.dtype, torch.float32)
    delta = (lora.b.to(x.dtype) @ lora.a.to(x.dtype)).to(wide)
    gains = magnitude.to(wide) / (weight.data.to(wide) + lora.scale * delta).norm(dim=1).detach()
    plain = linear(seen, weight.data.to(x.dtype)) if lora.dropout else base
    return (base + (gains - 1) * plain + gains * added * lora.scale).to(x.dtype)


def run(compute: Callable[..., Any], x: Tensor, loras: list[Lora], magnitudes: list[Tensor]) -> list[Tensor]:
    """Outputs and gradients."""
    torch.manual_seed(SEED)
    outputs = compute(x, loras, magnitudes)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    generator = torch.Generator(x.device).manual_seed(7)
    above = [
        torch.randn(y.shape, device=x.device, generator=generator).bfloat16().to(y.dtype) for y in outputs
    ]
    wanted = [x, *(tensor for lora in loras for tensor in (lora.a, lora.b)), *magnitudes]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, wanted, above)]


def check_error(
    ours: Callable[..., Any], plain: Callable[..., Any], x: Tensor, loras: Any, magnitudes: Any
) -> None:
    """Our error is at most that of the plain chain in the same format, but for half and a rounding."""

    def widen(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_()

    wide = [Lora(widen(lora.a), widen(lora.b), lora.scale, lora.dropout) for lora in loras]
    truth = run(plain, widen(x), wide, [widen(one) for one in magnitudes])
    usual, found = run(plain, x, loras, magnitudes), run(ours, x, loras, magnitudes)
    for right, theirs, value in zip(truth, usual, found, strict=True):
        assert value.dtype == theirs.dtype
        allowed = 1.5 * float((theirs - right).norm()) + torch.finfo(x.dtype).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


def draw_each(*counts: int) -> list[Tensor]:
    return [seed for count in counts for seed in draw_seeds(count, torch.device(GPU)).unbind()]


@pytest.mark.parametrize(
    ("dora", "rate"), [(False, RATE), (True, 0.0), (True, RATE)], ids=["dropout", "dora", "both"]
)
def test_queries_keys_and_values(dora: bool, rate: float):
    weights, loras, lengths = make([(4096, 4096), (4096, 1024), (4096, 1024)], rate)
    lengths = lengths if dora else []

    def ours(x: Tensor, loras: list[Lora], lengths: list[Tensor]) -> Any:
        return dora_linears(x, weights, loras, lengths) if lengths else lora_linears(x, weights, loras)

    def plain(x: Tensor, loras: list[Lora], lengths: list[Tensor]) -> Any:
        every = zip(weights, loras, lengths or [None] * 3, draw_each(3), strict=True)
        return [naive(x, *one) for one in every]

    check_error(ours, plain, draw(2047, 4096).requires_grad_(), loras, lengths)


@pytest.mark.parametrize(
    ("dora", "rate"), [(False, RATE), (True, 0.0), (True, RATE)], ids=["dropout", "dora", "both"]
)
def test_gated_mlp(dora: bool, rate: float):
    weights, loras, lengths = make([(2048, 8192), (2048, 8192), (8192, 2048)], rate)
    lengths = lengths if dora else []

    def ours(x: Tensor, loras: list[Lora], lengths: list[Tensor]) -> Tensor:
        if lengths:
            return dora_glu_mlp(x, weights, loras, lengths, "silu")
        return lora_glu_mlp(x, weights, loras, "silu")

    def plain(x: Tensor, loras: list[Lora], lengths: list[Tensor]) -> Tensor:
        m = lengths or [None] * 3
        seeds = draw_each(2, 1) if lengths else draw_each(3)
        gate, up = (naive(x, weights[i], loras[i], m[i], seeds[i]) for i in (0, 1))
        return naive(silu(gate) * up, weights[2], loras[2], m[2], seeds[2])

    check_error(ours, plain, draw(1023, 2048).requires_grad_(), loras, lengths)


def test_outputs_times_gains():
    y, rest, bias = draw(1023, 4100), draw(1023, 4100), draw(4100)
    gains = draw(4100, dtype=torch.float32)
    leaves = [one.requires_grad_() for one in (y, gains, bias, rest)]
    above = draw(1023, 4100)
    found = torch.autograd.grad(scale_outputs(y, gains, bias=bias, rest=rest), leaves, above)
    wide = [one.detach().double().requires_grad_() for one in leaves]
    right = torch.autograd.grad(wide[0] * wide[1] + wide[2] + wide[3], wide, above.double())
    for one, other in zip(found, right, strict=True):
        assert float((one - other).norm()) <= 0.004 * float(other.norm())


def test_weights_in_8_bits():
    """Products are those of bitsandbytes, adapters are added; gradients are those of the widened weight."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weights, loras, _ = make([(4096, 4096), (4096, 1024)], 0.0)
    packed, wide = [], []
    for weight in weights:
        data, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.data.half())
        state = bitsandbytes.MatmulLtState(CB=data, SCB=scales)
        state.has_fp16_weights, state.threshold = False, 6.0
        packed.append(Weight(data, None, EightBits(state)))
        wide.append(Weight((data.float() * (scales.unsqueeze(1) / 127)).bfloat16()))
    x = draw(512, 4096).requires_grad_()
    found = run(lambda x, loras, _: lora_linears(x, packed, loras), x, loras, [])
    right = run(lambda x, loras, _: lora_linears(x, wide, loras), x, loras, [])
    for one, other in zip(found[2:], right[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for index in (0, 1):
        product = bitsandbytes.matmul(x, packed[index].data, state=packed[index].state.state)
        added = loras[index].scale * x.double() @ loras[index].a.double().t() @ loras[index].b.double().t()
        expected = product.double() + added
        assert float((found[index] - expected).norm()) <= 0.006 * float(expected.norm())


def test_what_dropout_keeps():
    """No more than plain adapters: a dropped input would be 64 MiB, and a mask 32."""
    weights, loras, _ = make([(4096, 4096), (4096, 1024), (4096, 1024)], RATE)
    x = draw(8192, 4096).requires_grad_()
    lora_linears(x, weights, loras)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    outputs = lora_linears(x, weights, loras)
    kept = torch.cuda.memory_allocated() - before - sum(y.nbytes for y in outputs)
    assert kept < 2**20


@pytest.mark.parametrize("kind", KEYS)
def test_a_model_learns_as_by_peft(kind: str):
    check(build(**KEYS[kind]).to(GPU), tolerance=1e-4, asks=1e-4, again=1e-5)


#: bitsandbytes rounds inputs to 8 bits: a rounding of fp32 before that may be one of 8 bits after it.
@pytest.mark.parametrize("kind", ["plain", "dropout", "dora", "dora and dropout"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_beside_weights_in_few_bits(bits: int, kind: str):
    adapted = adapt(round_(build_base(), bits, device=GPU), **KEYS.get(kind, {}))
    check(adapted, *((0.05, 0.05, 0.05) if bits == 8 else (1e-4, 1e-4, 1e-5)))
