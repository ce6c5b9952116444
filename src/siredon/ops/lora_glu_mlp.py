"""A gated MLP with low-rank adapters as one function of autograd.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202; of the adapters, see
`siredon.ops.lora_linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.glu import glu, glu_backward
from siredon.ops.lora_linear import (
    Layer,
    Lora,
    Weight,
    backward_adapters,
    backward_input,
    find_format,
    multiply_back,
    multiply_down,
    multiply_up,
    pack_arguments,
    slice_down,
    unpack_layers,
    without_autocast,
)
from siredon.ops.seeded_dropout import keep

#: Most columns of an adapter whose product is added while gate and up are read.
_MOST_RANK = 64


def lora_glu_mlp(
    x: Tensor,
    weights: Sequence[Weight],
    loras: Sequence[Lora | None],
    activation: str,
    *,
    skip_output: bool = False,
) -> Tensor:
    """Equals `down(glu(gate(x), up(x), activation))`, of three layers as `lora_linears` has them.

    For the backward pass `x`, the outputs of gate and up and their products with `a` are kept.  The product of gate
    and up is computed again there, and their gradients take the memory of the outputs: it runs once.

    Args:
        x: Shape [..., I].
        weights: Of gate [H, I], up [H, I] and down [O, H].
        loras: Of the same three; None where a layer has no adapter.
        activation: See `siredon.ops.glu`.
        skip_output: See `lora_linears`.

    Returns:
        Shape [..., O], in the format of `x`.
    """
    x = x.to(find_format(x))
    with without_autocast(x):
        output: Tensor = _GluMlp.apply(x, activation, *pack_arguments(x, weights, loras, skip_output))  # type: ignore[no-untyped-call]
    return output


class _GluMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: str, skip: bool, plan: Any, *tensors: Tensor | None
    ) -> Tensor:
        layers = unpack_layers(plan, tensors[0], tensors[1:])
        first, last = layers[:2], layers[2]
        rows = x.reshape(-1, x.shape[-1])
        into = multiply_down(rows, first)
        ctx.adds = adds = _adds_while_reading(rows, first) and (
            last.b is None or last.b.shape[1] <= _MOST_RANK
        )
        parts = (None, None) if adds else slice_down(into, first)
        gate, up = (multiply_up(rows, layer, part) for layer, part in zip(first, parts, strict=True))
        output = None
        if not skip:
            product = _multiply_low(gate, up, into, first, activation) if adds else glu(gate, up, activation)
            output = multiply_up(product, last, multiply_down(product, [last]))
        ctx.activation, ctx.plan = activation, plan
        ctx.save_for_backward(x, gate, up, into, *tensors)
        shape = (*x.shape[:-1], last.num_outputs)
        return x.new_empty(shape) if output is None else output.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, gate, up, into, seeds, *tensors = ctx.saved_tensors
        layers = unpack_layers(ctx.plan, seeds, tensors)
        first, last = layers[:2], layers[2:]
        needed = ctx.needs_input_grad[5:]
        rows = [gradients[0].reshape(-1, gradients[0].shape[-1])]
        inputs = x.reshape(-1, x.shape[-1])
        product: Tensor | None
        with without_autocast(x):
            back = multiply_back(rows, last, x.dtype)
            # Where the kernel adds the adapters' parts, it adds that of the last one, too; it knows no mask
            late = ctx.adds and not last[0].rate
            to_product = backward_input(rows, last, None if late else back)
            if ctx.adds:
                above = (to_product, back if late else None)
                _differentiate_low_((gate, up), into, layers, above, ctx.activation)
                to_gate, to_up, product = gate, up, to_product
            else:
                # A compiler decides on memory itself, and does not see that nobody reads the outputs again.
                inplace = not torch.compiler.is_compiling()
                options = {"recompute": any(needed[8:]), "inplace": inplace}
                to_gate, to_up, product = glu_backward(gate, up, to_product, ctx.activation, **options)
            del to_product
            seen, seer = (product, last) if needed[8] else _drop_once(product, last)
            del product
            # Not kept: a layer that is computed again would have to make the product twice
            out_of = multiply_down(seen, seer) if seen is not None and needed[11] else None
            to_last = backward_adapters(seen, (out_of, back), rows, seer, needed[8:])
            del seen
            rows = [to_gate, to_up]
            back = multiply_back(rows, first, x.dtype)
            to_first = backward_adapters(inputs, (into, back), rows, first, needed[:8])
            to_x = backward_input(rows, first, back).view(x.shape) if ctx.needs_input_grad[0] else None
        return to_x, None, None, None, None, *to_first, *to_last


def _drop_once(product: Tensor | None, last: list[Layer]) -> tuple[Tensor | None, list[Layer]]:
    """The product as the last adapter sees it, and its layer without dropout: one mask for both of its gradients."""
    layer = last[0]
    if product is None or layer.seed is None:
        return product, last
    return keep(product, layer.seed, layer.rate), [replace(layer, rate=0.0, seed=None)]


def _adds_while_reading(x: Tensor, layers: Sequence[Layer]) -> bool:
    """Whether the products of both adapters are added to gate and up where these are read, by a kernel of ours."""
    if x.device.type != GPU or torch.compiler.is_compiling() or not has_triton():
        return False
    ranks = [_MOST_RANK + 1 if layer.b is None else layer.b.shape[1] for layer in layers]
    return max(ranks) <= _MOST_RANK


def _lay_out(layers: Sequence[Layer], dtype: torch.dtype) -> tuple[Any, Any]:
    bs = tuple(layer.b.to(dtype).contiguous() for layer in layers if layer.b is not None)
    return bs, tuple(layer.scale for layer in layers)


def _multiply_low(gate: Tensor, up: Tensor, low: Any, layers: Sequence[Layer], activation: str) -> Tensor:
    from siredon.ops.low_rank_glu_kernels import launch_forward

    return launch_forward((gate, up), low, *_lay_out(layers, gate.dtype), activation)


def _differentiate_low_(
    wide: tuple[Tensor, Tensor],
    low: Any,
    layers: Sequence[Layer],
    above: tuple[Tensor, Tensor | None],
    activation: str,
) -> None:
    from siredon.ops.low_rank_glu_kernels import launch_backward_

    grad, back = above
    a = layers[2].a
    down_a = None if a is None else a.to(grad.dtype).contiguous()
    launch_backward_(wide, low, *_lay_out(layers[:2], grad.dtype), (grad, back, down_a), activation)
