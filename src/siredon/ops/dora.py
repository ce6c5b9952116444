"""Linear layers whose adapters learn direction and length apart (DoRA).

With `V = W + scale * b @ a` and `gains = magnitude / |V|`, row by row, a layer is `gains * (x @ V.T) + bias`.  To
gradients the lengths `|V|` are constants.  They come from small products: no sum of W and its adapter is made.

Shapes: N rows, I inputs, O outputs, r columns of the adapter.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, https://arxiv.org/abs/2402.09353, with the
constant lengths of its section 4.3; and with dropout as PEFT has it: only what the adapter adds to the layer sees the
dropped input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from siredon.hardware import GPU
from siredon.ops.gains import scale_outputs
from siredon.ops.glu import glu
from siredon.ops.lora_linear import (
    EightBits,
    Layer,
    Lora,
    Weight,
    find_format,
    is_watched,
    lora_linears,
    without_autocast,
)
from siredon.ops.seeded_dropout import differentiate_kept, draw_seeds, keep

#: Rows of a weight that are widened at once.
_BLOCK = 1024


def dora_linears(
    x: Tensor, weights: Sequence[Weight], loras: Sequence[Lora | None], magnitudes: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Linear layers of one input; see `lora_linears`.

    Each with a magnitude equals `bias + gains * (x @ W.T + scale * x @ a.T @ b.T)`, or with dropout
    `bias + x @ W.T + (gains - 1) * (dropped @ W.T) + gains * scale * dropped @ a.T @ b.T`.  For the backward pass the
    product before its gains is kept, beside what plain layers keep.

    Args:
        x: Shape [..., I].
        weights: One for each layer.
        loras: As many; None where a layer has no adapter.  One with a magnitude has no bias of its own.
        magnitudes: As many, [O]; None where an adapter is plain.

    Returns:
        Of each layer, shape [..., O], in the format of `x`.
    """
    x = x.to(find_format(x))
    together = [index for index, lora in enumerate(loras) if magnitudes[index] is None or not _drops(lora)]
    outputs: dict[int, Tensor] = {}
    with without_autocast(x):
        bare = [weights[i] if magnitudes[i] is None else replace(weights[i], bias=None) for i in together]
        products = lora_linears(x, bare, [loras[i] for i in together]) if together else ()
        for i, product in zip(together, products, strict=True):
            lora, magnitude = loras[i], magnitudes[i]
            outputs[i] = product
            if lora is not None and magnitude is not None:
                gains = find_gains(weights[i], lora, magnitude, x.dtype)
                outputs[i] = scale_outputs(product, gains, bias=weights[i].bias)
        seeds = draw_seeds(len(loras), x.device) if len(together) < len(loras) else None
        for i, (lora, magnitude) in enumerate(zip(loras, magnitudes, strict=True)):
            if i not in outputs and seeds is not None and lora is not None and magnitude is not None:
                outputs[i] = _multiply_dropped(x, weights[i], lora, (magnitude, seeds[i]))
    return tuple(outputs[i] for i in range(len(loras)))


def dora_glu_mlp(
    x: Tensor,
    weights: Sequence[Weight],
    loras: Sequence[Lora | None],
    magnitudes: Sequence[Tensor | None],
    activation: str,
) -> Tensor:
    """Equals `down(glu(gate(x), up(x), activation))`, of three layers as `dora_linears` has them."""
    gate, up = dora_linears(x, weights[:2], loras[:2], magnitudes[:2])
    return dora_linears(glu(gate, up, activation), weights[2:], loras[2:], magnitudes[2:])[0]


def find_gains(weight: Weight, lora: Lora, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """What outputs are multiplied by, [O], in fp32, or fp64 where `dtype` is that."""
    with torch.no_grad():
        lengths = measure_rows(weight, lora, torch.promote_types(dtype, torch.float32))
    return magnitude.to(lengths.dtype) / lengths


def measure_rows(weight: Weight, lora: Lora, wide: torch.dtype) -> Tensor:
    """The lengths of the rows of `W + scale * b @ a`, [O], in the format `wide`.

    Of a row they are the root of `|w|^2 + 2 * scale * w @ (b @ a) + scale^2 * |b @ a|^2`, where `w @ (b @ a)` is
    `(w @ a.T) @ b`, and `|b @ a|^2` is `b @ (a @ a.T) @ b`: sums over r numbers.
    """
    (data, scales), a, b = _read_rows(weight), lora.a.to(wide), lora.b.to(wide)
    squares = torch.linalg.vector_norm(data, dim=1, dtype=wide).square_()
    shared = (_multiply_wide(data, a) * b).sum(1)
    if scales is not None:
        squares, shared = squares * scales.square(), shared * scales
    own = (b @ (a @ a.t()) * b).sum(1)
    total: Tensor = squares + 2 * lora.scale * shared + lora.scale**2 * own
    return total.clamp_(min=0).sqrt_()


def _read_rows(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """A weight in a float format that holds it exactly, and what its rows are to be multiplied by, if anything."""
    if weight.state is None:
        return weight.data, None
    if isinstance(weight.state, EightBits):
        return weight.data.to(torch.bfloat16), weight.state.state.SCB / 127
    layer = Layer(weight.state, 0.0, 0.0, None, weight.data, None, None, None)
    return layer.widen(weight.state.dtype), None


def _multiply_wide(data: Tensor, a: Tensor) -> Tensor:
    """Equals `data.to(a.dtype) @ a.T`, [O, r]; on a GPU with `a` rounded to a format of 16 bits that `data` is in."""
    if data.dtype is a.dtype:
        return data @ a.t()
    if data.device.type == GPU and data.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(data, a.to(data.dtype).t(), out_dtype=a.dtype)
    return torch.cat([rows.to(a.dtype) @ a.t() for rows in torch.split(data, _BLOCK)])


def _drops(lora: Lora | None) -> bool:
    return lora is not None and lora.dropout > 0


def _multiply_dropped(x: Tensor, weight: Weight, lora: Lora, rest: tuple[Tensor, Tensor]) -> Tensor:
    """The output of one layer whose adapter sees a dropped input; `rest` is its magnitude and its seed."""
    magnitude, seed = rest
    plain, product = _Dropped.apply(  # type: ignore[no-untyped-call]
        x, (weight.state, lora.scale, lora.dropout), seed, weight.data, weight.bias, lora.a, lora.b
    )
    gains = find_gains(weight, lora, magnitude, x.dtype)
    return scale_outputs(product, gains * _find_factor(lora.dropout), rest=plain)


def _find_factor(rate: float) -> float:
    """What is kept is multiplied by it."""
    return 1 / (1 - rate) if rate < 1 else 0.0


class _Dropped(torch.autograd.Function):
    """Of the kept input x', `x @ W.T + bias - factor * x' @ W.T`, and `x' @ W.T + scale * x' @ a.T @ b.T`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, plan: Any, seed: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layer = _unpack(plan, seed, tensors)
        rows = x.reshape(-1, x.shape[-1])
        kept = keep(rows, seed, layer.rate)
        product = linear(kept, layer.widen(x.dtype))
        assert layer.a is not None
        assert layer.b is not None
        down = kept @ layer.a.to(x.dtype).t()
        factor = _find_factor(layer.rate)
        b = layer.b.to(x.dtype).t()
        if is_watched():
            plain = layer.multiply(rows).sub(product, alpha=factor)
            product = torch.addmm(product, down, b, alpha=layer.scale)
        else:
            plain = layer.multiply(rows).sub_(product, alpha=factor)
            product.addmm_(down, b, alpha=layer.scale)
        ctx.plan = plan
        ctx.save_for_backward(x, down, seed, *tensors)
        shape = (*x.shape[:-1], layer.num_outputs)
        return plain.view(shape), product.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, down, seed, *tensors = ctx.saved_tensors
        layer = _unpack(ctx.plan, seed, tensors)
        assert layer.a is not None
        assert layer.b is not None
        rows = x.reshape(-1, x.shape[-1])
        above, to_product = (gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients)
        needs_x, _, _, needs_data, needs_bias, needs_a, needs_b = ctx.needs_input_grad
        with without_autocast(x):
            # Of the kept input, which both products have
            of_kept = to_product.sub(above, alpha=_find_factor(layer.rate))
            back = (to_product @ layer.b.to(x.dtype)).mul_(layer.scale)
            to_x = _differentiate_input(layer, above, of_kept, back) if needs_x else None
            to_a = differentiate_kept(back, rows, seed, layer.rate) if needs_a else None
            to_b = (to_product.t() @ down).to(layer.b.dtype).mul_(layer.scale) if needs_b else None
            to_bias = above.sum(0) if needs_bias else None
            to_data = above.t() @ rows + of_kept.t() @ keep(rows, seed, layer.rate) if needs_data else None
        found = (None if to_x is None else to_x.view(x.shape), to_data, to_bias, to_a, to_b)
        like = (x, layer.data, layer.bias, layer.a, layer.b)
        cast = [
            None if one is None or other is None else one.to(other.dtype)
            for one, other in zip(found, like, strict=True)
        ]
        return cast[0], None, None, *cast[1:]


def _unpack(plan: tuple[Any, float, float], seed: Tensor, tensors: Sequence[Tensor | None]) -> Layer:
    state, scale, rate = plan
    return Layer(state, scale, rate, seed, *tensors)  # type: ignore[arg-type]


def _differentiate_input(layer: Layer, above: Tensor, of_kept: Tensor, back: Tensor) -> Tensor:
    """The gradient of the input, [N, I]."""
    assert layer.a is not None
    assert layer.seed is not None
    data = layer.widen(above.dtype)
    dropped = of_kept @ data
    dropped.addmm_(back, layer.a.to(above.dtype))
    to_x = above @ data
    return to_x.add_(keep(dropped, layer.seed, layer.rate))
