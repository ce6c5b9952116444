"""Layers with adapters on a GPU: errors against fp64 at the sizes of an 8B model, and weights in 4 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from siredon.hardware import probe_hardware
from siredon.ops.lora_glu_mlp import lora_glu_mlp
from siredon.ops.lora_linear import Lora, Weight, lora_linears

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

Layers = Sequence[tuple[Weight, Lora | None]]


def draw(*shape: int, size: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=probe_hardware().device).mul_(size).to(dtype)


def layer(
    inputs: int, outputs: int, rank: int = 16, adapter: torch.dtype = torch.float32
) -> tuple[Weight, Lora]:
    a = draw(rank, inputs, size=inputs**-0.5, dtype=adapter).requires_grad_()
    b = draw(outputs, rank, size=rank**-0.5, dtype=adapter).requires_grad_()
    return Weight(draw(outputs, inputs, size=inputs**-0.5)), Lora(a, b, 1.7)


def naive(x: Tensor, weight: Weight, lora: Lora) -> Tensor:
    return (
        linear(x, weight.data.to(x.dtype))
        + linear(linear(x, lora.a.to(x.dtype)), lora.b.to(x.dtype)) * lora.scale
    )


def naive_mlp(x: Tensor, layers: Any) -> Tensor:
    gate, up, down = layers
    return naive(silu(naive(x, *gate)) * naive(x, *up), *down)


def split(layers: Any) -> tuple[list[Weight], list[Lora]]:
    return [weight for weight, _ in layers], [lora for _, lora in layers]


def run(compute: Callable[..., Any], x: Tensor, layers: Any) -> list[Tensor]:
    """Outputs and gradients, those of the input and of the adapters."""
    outputs = compute(x, layers)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    generator = torch.Generator(x.device).manual_seed(7)
    above = [
        torch.randn(y.shape, device=x.device, generator=generator).bfloat16().to(y.dtype) for y in outputs
    ]
    wanted = [x, *(tensor for _, lora in layers for tensor in (lora.a, lora.b))]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, wanted, above)]


def in_fp64(x: Tensor, layers: Any) -> tuple[Tensor, Any]:
    def widen(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_(tensor.requires_grad)

    wide = [(Weight(widen(one.data)), Lora(widen(lora.a), widen(lora.b), lora.scale)) for one, lora in layers]
    return widen(x), wide


def check(ours: Callable[..., Any], plain: Callable[..., Any], x: Tensor, layers: Any) -> None:
    """Our error is at most that of the plain chain in the same format, but for half and a rounding."""
    truth, usual, found = run(plain, *in_fp64(x, layers)), run(plain, x, layers), run(ours, x, layers)
    for right, theirs, value in zip(truth, usual, found, strict=True):
        assert value.dtype == theirs.dtype
        allowed = 1.5 * float((theirs - right).norm()) + torch.finfo(x.dtype).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_queries_keys_and_values(adapter: torch.dtype):
    layers = [layer(4096, size, adapter=adapter) for size in (4096, 1024, 1024)]
    x = draw(2, 2048, 4096).requires_grad_()
    check(
        lambda x, layers: lora_linears(x, *split(layers)),
        lambda x, layers: [naive(x, *y) for y in layers],
        x,
        layers,
    )


@pytest.mark.parametrize("rows", [8192, 1023])
def test_gated_mlp(rows: int):
    layers = [layer(4096, 14336), layer(4096, 14336), layer(14336, 4096)]
    x = draw(rows, 4096).requires_grad_()
    check(lambda x, layers: lora_glu_mlp(x, *split(layers), "silu"), naive_mlp, x, layers)


def test_weights_in_4_bits():
    """The numbers are those of the widened weight, and no widened weight outlives its product."""
    functional = pytest.importorskip("bitsandbytes.functional")
    layers, wide = [], []
    for weight, lora in (layer(4096, 4096), layer(4096, 1024)):
        data, state = functional.quantize_4bit(weight.data, quant_type="nf4", compress_statistics=True)
        layers.append((Weight(data, None, state), lora))
        wide.append((Weight(functional.dequantize_4bit(data, state)), lora))
    x = draw(512, 4096).requires_grad_()

    def compute(x: Tensor, layers: Any) -> tuple[Tensor, ...]:
        return lora_linears(x, *split(layers))

    for found, right in zip(run(compute, x, layers), run(compute, x, wide), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=0)
    before = torch.cuda.memory_allocated()
    outputs = compute(x, layers)
    kept = torch.cuda.memory_allocated() - before - sum(y.nbytes for y in outputs)
    assert kept < wide[0][0].data.nbytes / 4
    del outputs


def test_memory_of_the_mlp():
    """The forward pass keeps the outputs of gate and up, and the backward pass needs no third of that size but one."""
    layers = [layer(1024, 8192), layer(1024, 8192), layer(8192, 1024)]
    x = draw(8192, 1024).requires_grad_()
    wide = 8192 * 8192 * 2
    # Libraries allocate their workspaces with the first product of each thread
    lora_glu_mlp(x, *split(layers), "silu").sum().backward()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    output = lora_glu_mlp(x, *split(layers), "silu")
    assert torch.cuda.memory_allocated() - before < 2.4 * wide
    torch.cuda.reset_peak_memory_stats()
    output.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 4.7 * wide
