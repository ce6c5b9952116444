"""A gated MLP with low-rank adapters as one function of autograd.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202; of the adapters, see
`siredon.ops.lora_linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.glu import glu, glu_backward
from siredon.ops.lora_linear import (
    Layer,
    Lora,
    Weight,
    add_each_,
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
from siredon.ops.recomputing import is_checkpointed
from siredon.ops.seeded_dropout import keep

#: Gate and up of so many bytes each, or more, are differentiated in halves where memory is fullest.
_LARGE_BYTES = 2**27
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
        ctx.in_parts = is_checkpointed()
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
        with without_autocast(x):
            back = multiply_back(rows, last, x.dtype)
            if ctx.adds:
                state = _Backward(gate, up, into, rows[0], back, layers, ctx.activation)
                to_last = _differentiate_low_(state, needed[8:], ctx.in_parts)
                to_gate, to_up = gate, up
            else:
                to_product = backward_input(rows, last, back)
                # A compiler decides on memory itself, and does not see that nobody reads the outputs again.
                inplace = not torch.compiler.is_compiling()
                options = {"recompute": any(needed[8:]), "inplace": inplace}
                to_gate, to_up, product = glu_backward(gate, up, to_product, ctx.activation, **options)
                del to_product
                to_last = _differentiate_down(product, rows, back, last, needed[8:])
                del product
            rows = [to_gate, to_up]
            back = multiply_back(rows, first, x.dtype)
            to_first = backward_adapters(inputs, (into, back), rows, first, needed[:8])
            to_x = backward_input(rows, first, back).view(x.shape) if ctx.needs_input_grad[0] else None
        return to_x, None, None, None, None, *to_first, *to_last


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


@dataclass(frozen=True, slots=True)
class _Backward:
    """What the backward pass of the MLP begins with.

    Args:
        gate: Without its adapter, [N, H].
        up: The same.
        into: Products of the input with both `a`, [N, sum of r].
        above: Gradient of the output, [N, O].
        back: Its product with `b` of the last layer, [N, r]; None where that has no adapter.
        layers: Gate, up and down.
        activation: See `siredon.ops.glu`.
    """

    gate: Tensor
    up: Tensor
    into: Tensor
    above: Tensor
    back: Tensor | None
    layers: Sequence[Layer]
    activation: str

    def part(self, rows: slice) -> _Backward:
        """Some of the rows."""
        back = None if self.back is None else self.back[rows]
        wide = self.gate[rows], self.up[rows], self.into[rows], self.above[rows]
        return _Backward(*wide, back, self.layers, self.activation)


def _differentiate_low_(state: _Backward, needed: Sequence[bool], in_parts: bool) -> list[Tensor | None]:
    """Gate and up become their gradients; returns those of the last layer's tensors, of which `needed` are.

    Where layers are computed again memory is fullest here, as all that the layer keeps is beside the inputs of the
    others: the gradient of the product then exists for half of the rows at a time, if that is much.  A mask of dropout
    is that of all rows.
    """
    num_rows = len(state.gate)
    is_large = state.gate.nbytes >= _LARGE_BYTES
    halves = in_parts and is_large and not needed[0] and state.layers[2].seed is None
    step = -(-num_rows // 2) if halves else num_rows
    weight = state.layers[2].widen(state.above.dtype)
    found: list[Tensor | None] = [None] * len(needed)
    for start in range(0, num_rows, step):
        part = state.part(slice(start, start + step))
        new = _differentiate_part_(part, weight, needed)
        found = [
            one if other is None else other if one is None else one.add_(other)
            for one, other in zip(found, new, strict=True)
        ]
    return found


def _differentiate_part_(part: _Backward, weight: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
    from siredon.ops.low_rank_glu_kernels import launch_backward_

    last, back = part.layers[2], part.back
    product = part.above @ weight  # Its gradient, until the kernel has run
    if last.seed is not None and back is not None:
        add_each_(product, back, [last])  # The kernel knows no mask
        back = None
    down_a = None if last.a is None else last.a.to(product.dtype).contiguous()
    first = _lay_out(part.layers[:2], product.dtype)
    launch_backward_((part.gate, part.up), part.into, *first, (product, back, down_a), part.activation)
    return _differentiate_down(product, [part.above], part.back, [last], needed)


def _differentiate_down(
    product: Tensor | None,
    above: Sequence[Tensor],
    back: Tensor | None,
    last: Sequence[Layer],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the last layer's tensors, from the product that it was given."""
    layer = last[0]
    if product is not None and layer.seed is not None and not needed[0]:
        # One mask for both gradients of the adapter
        product, last = keep(product, layer.seed, layer.rate), [replace(layer, rate=0.0, seed=None)]
    # Not kept: a layer that is computed again would have to make the product twice
    out_of = multiply_down(product, last) if product is not None and needed[3] else None
    return backward_adapters(product, (out_of, back), above, last, needed)
