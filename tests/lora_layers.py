"""Linear layers with adapters as the fused ops take them, the plain formula, and how both are held against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

from siredon.ops.lora_glu_mlp import lora_glu_mlp
from siredon.ops.lora_linear import Lora, Weight, lora_linears

BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64

FORMATS = [(FP32, FP32, FP32), (BF16, BF16, FP32), (BF16, BF16, BF16), (BF16, FP32, FP32), (FP64, FP64, FP64)]

Layers = Sequence[tuple[Weight, Lora | None]]


def draw(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.randn(shape, dtype=FP64).to(dtype)


def layer(
    inputs: int, outputs: int, rank: int | None, scale: float = 0.7, **how: Any
) -> tuple[Weight, Lora | None]:
    """A layer with random parameters; `base` and `adapter` are their formats, `dropout` and `lora_bias` its own."""
    base, adapter = how.get("base", FP32), how.get("adapter", FP32)
    bias = draw(outputs, dtype=base) if how.get("bias") else None
    weight = Weight((draw(outputs, inputs) / inputs**0.5).to(base), bias)
    if rank is None:
        return weight, None
    a, b = (draw(rank, inputs) / inputs**0.5).to(adapter), (draw(outputs, rank) / rank**0.5).to(adapter)
    own_bias = draw(outputs, dtype=adapter).requires_grad_() if how.get("lora_bias") else None
    return weight, Lora(a.requires_grad_(), b.requires_grad_(), scale, how.get("dropout", 0.0), own_bias)


def naive(x: Tensor, weight: Weight, lora: Lora | None, mask: Tensor | None = None) -> Tensor:
    """PEFT's chain, with the adapter in the format of the input; of a mask of dropout, which places it keeps."""
    y = linear(x, weight.data.to(x.dtype), None if weight.bias is None else weight.bias.to(x.dtype))
    if lora is None:
        return y
    bias = None if lora.bias is None else lora.bias.to(x.dtype)
    seen = x if mask is None else x * (mask.to(x.dtype) / (1 - lora.dropout))
    return y + linear(linear(seen, lora.a.to(x.dtype)), lora.b.to(x.dtype), bias) * lora.scale


def naive_mlp(
    x: Tensor, layers: Layers, activation: str, masks: Sequence[Tensor | None] = (None,) * 3
) -> Tensor:
    gate, up = (naive(x, *one, mask) for one, mask in zip(layers[:2], masks[:2], strict=True))
    act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
    return naive(act * up, *layers[2], masks[2])


def fused(x: Tensor, layers: Layers, **options: Any) -> tuple[Tensor, ...]:
    return lora_linears(x, [weight for weight, _ in layers], [lora for _, lora in layers], **options)


def fused_mlp(x: Tensor, layers: Layers, activation: str, **options: Any) -> Tensor:
    return lora_glu_mlp(
        x, [weight for weight, _ in layers], [lora for _, lora in layers], activation, **options
    )


def trained(layers: Layers) -> list[Tensor]:
    parts = [
        (weight.data, weight.bias, *((None,) * 3 if lora is None else (lora.a, lora.b, lora.bias)))
        for weight, lora in layers
    ]
    return [tensor for tensors in parts for tensor in tensors if tensor is not None and tensor.requires_grad]


def widen(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def in_fp64(x: Tensor, layers: Layers) -> tuple[Tensor, Layers]:
    wide: list[tuple[Weight, Lora | None]] = []
    for weight, lora in layers:
        bias = None if weight.bias is None else widen(weight.bias)
        if lora is not None:
            own_bias = None if lora.bias is None else widen(lora.bias)
            lora = replace(lora, a=widen(lora.a), b=widen(lora.b), bias=own_bias)
        wide.append((Weight(widen(weight.data), bias), lora))
    return widen(x), wide


def run(compute: Callable[..., Any], x: Tensor, layers: Layers) -> list[Tensor]:
    """Outputs, the gradient of `x`, those of what is trained; each output is weighed with fixed numbers."""
    outputs = compute(x, layers)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(y.shape, dtype=FP64, generator=generator).to(BF16).to(y.dtype) for y in outputs]
    wanted = ([x] if x.requires_grad else []) + trained(layers)
    weighed = [(y, weight) for y, weight in zip(outputs, weights, strict=True) if y.requires_grad]
    gradients = torch.autograd.grad([y for y, _ in weighed], wanted, [weight for _, weight in weighed])
    return [*(y.detach() for y in outputs), *gradients]


def check(ours: Callable[..., Any], plain: Callable[..., Any], x: Tensor, layers: Layers) -> None:
    """Our error against fp64 is at most that of the plain chain in the same format, but for half and a rounding."""
    truth, theirs, found = run(plain, *in_fp64(x, layers)), run(plain, x, layers), run(ours, x, layers)
    assert len(found) == len(truth)
    for right, usual, value in zip(truth, theirs, found, strict=True):
        assert value.shape == right.shape
        assert value.dtype == usual.dtype
        allowed = 1.5 * float((usual - right).norm()) + (4 if x.dtype is FP64 else 1) * torch.finfo(
            x.dtype
        ).eps * float(right.norm())
        assert float((value - right).norm()) <= allowed


def each(x: Tensor, layers: Layers) -> list[Tensor]:
    return [naive(x, *one) for one in layers]
