"""Linear layers with low-rank adapters that share an input: forward and backward as few products.

PEFT's chain has, for each layer, five more passes over every output and one more over the gradient of the input.  Here
the adapter's product is added into the output of the layer's own, and all gradients of the input go into one buffer.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from siredon.ops.seeded_dropout import add_kept_, differentiate_kept, draw_seeds, multiply_kept


@dataclass(frozen=True, slots=True)
class EightBits:
    """How bitsandbytes multiplies by a weight in 8 bits: its input is rounded to 8 bits, too (LLM.int8).

    Args:
        state: The `MatmulLtState` of its layer, which has the scales of the rows of the weight.
    """

    state: Any


@dataclass(frozen=True, slots=True)
class Weight:
    """What a linear layer multiplies by.

    Args:
        data: Shape [O, I], in any float format; or, with `state`, what bitsandbytes packed it to.
        bias: Shape [O].
        state: The `QuantState` of a weight in NF4 or FP4: it is widened for each product, and not kept.  Or that of
            one in int8, which is frozen: bitsandbytes multiplies, and gradients go through the widened weight.
    """

    data: Tensor
    bias: Tensor | None = None
    state: Any = None


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank adapter.

    Args:
        a: Shape [r, I], in fp32 or in the format of the input.
        b: Shape [O, r].
        scale: What its product is multiplied by.
        dropout: Which share of the input it does not see, each adapter another one; 0 where the model is not trained.
        bias: Of `b`, shape [O].
    """

    a: Tensor
    b: Tensor
    scale: float
    dropout: float = 0.0
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer within a function of autograd: its tensors and what is no tensor.

    With dropout the scale has its factor `1 / (1 - rate)`, too.
    """

    state: Any
    scale: float
    rate: float
    seed: Tensor | None
    data: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None

    def widen(self, dtype: torch.dtype) -> Tensor:
        """The weight, [O, I].  The allocator of PyTorch hands the same memory to one layer after another."""
        if self.state is None:
            return self.data.to(dtype)
        if isinstance(self.state, EightBits):
            scales = self.state.state.SCB.unsqueeze(1) * (1 / 127)
            return self.data.to(dtype).mul_(scales)
        from bitsandbytes.functional import dequantize_4bit

        wide: Tensor = dequantize_4bit(self.data, self.state)
        return wide.to(dtype)

    def multiply(self, x: Tensor) -> Tensor:
        """The product of the layer without its adapter, [N, O], with the bias."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if not isinstance(self.state, EightBits):
            return linear(x, self.widen(x.dtype), bias)
        from bitsandbytes import matmul

        product: Tensor = matmul(x, self.data, state=self.state.state, bias=bias)
        return product

    @property
    def num_outputs(self) -> int:
        """O, of a packed weight, too."""
        has_shape = self.state is None or isinstance(self.state, EightBits)
        return int((self.data if has_shape else self.state).shape[0])


def lora_linears(
    x: Tensor, weights: Sequence[Weight], loras: Sequence[Lora | None], *, skip_output: bool = False
) -> tuple[Tensor, ...]:
    """Linear layers of one input, each with its adapter or none.

    Each equals `F.linear(x, W, bias) + scale * F.linear(F.linear(x, a), b, own_bias)`, with `a` and `b` in the format
    of `x`, and `F.dropout(x)` before `a` where it has dropout.  Gradients are in the formats of what they are of; where
    `W` is trained, too.  For the backward pass `x` and the products with all `a` are kept, and of masks their seeds.
    Under autocast `x` is cast to its format first.

    Args:
        x: Shape [..., I].
        weights: One for each layer.
        loras: As many; None where a layer has no adapter.
        skip_output: Leave the outputs uninitialised: for a layer that is computed again, whose outputs nobody reads.

    Returns:
        Of each layer, shape [..., O], in the format of `x`.
    """
    x = x.to(find_format(x))
    with without_autocast(x):
        outputs: tuple[Tensor, ...] = _Linears.apply(x, *pack_arguments(x, weights, loras, skip_output))  # type: ignore[no-untyped-call]
    return outputs


def find_format(x: Tensor) -> torch.dtype:
    """In which a product with `x` is computed: that of autocast where it is on, which lets fp64 be."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype is torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """In it, products are in the formats of their operands."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def pack_arguments(
    x: Tensor, weights: Sequence[Weight], loras: Sequence[Lora | None], skip_output: bool
) -> tuple[Any, ...]:
    """`skip_output`, a plan, seeds, and then the tensors of each layer: autograd sees tensors only at the top.

    The plan has the states, scales and rates of dropout of all layers.  Where one drops, seeds are drawn.
    """
    tensors: list[Tensor | None] = []
    scales, rates, drops = [], [], False
    for weight, lora in zip(weights, loras, strict=True):
        if lora is None:
            tensors += (weight.data, weight.bias, None, None)
            scales.append(0.0)
            rates.append(0.0)
            continue
        tensors += (weight.data, _sum_biases(weight, lora), lora.a, lora.b)
        rate, scale = lora.dropout, lora.scale
        if rate:
            # With a rate of 1 the product is zero, whatever it is multiplied by
            drops, scale = True, scale / (1 - rate) if rate < 1 else 0.0
        scales.append(scale)
        rates.append(rate)
    seeds = draw_seeds(len(rates), x.device) if drops else None
    plan = (tuple(weight.state for weight in weights), tuple(scales), tuple(rates))
    return skip_output, plan, seeds, *tensors


def _sum_biases(weight: Weight, lora: Lora) -> Tensor | None:
    """Both biases in one, [O]: PyTorch divides its gradient between them."""
    if lora.bias is None:
        return weight.bias
    own = lora.bias * lora.scale
    return own if weight.bias is None else weight.bias + own


def unpack_layers(
    plan: tuple[Any, ...], seeds: Tensor | None, tensors: Sequence[Tensor | None]
) -> list[Layer]:
    """What `pack_arguments` made flat."""
    own: Sequence[Tensor | None] = [None] * len(plan[0]) if seeds is None else seeds.unbind()
    return [
        Layer(state, scale, rate, seed if rate else None, *tensors[4 * index : 4 * index + 4])  # type: ignore[arg-type]
        for index, (state, scale, rate, seed) in enumerate(zip(*plan, own, strict=True))
    ]


def multiply_down(x: Tensor, layers: Sequence[Layer]) -> Tensor | None:
    """The products with all `a` in one, [N, sum of r]; None without an adapter."""
    if _drop(layers):
        parts = [_multiply_own(x, layer) for layer in layers if layer.a is not None]
        return torch.cat([part for part in parts if part is not None], 1)
    a = _join_a(layers, x.dtype)
    return None if a is None else x @ a.t()


def _drop(layers: Sequence[Layer]) -> bool:
    return any(layer.rate for layer in layers)


def _multiply_own(x: Tensor, layer: Layer) -> Tensor | None:
    if layer.a is None:
        return None
    a = layer.a.to(x.dtype)
    return x @ a.t() if layer.seed is None else multiply_kept(x, a, layer.seed, layer.rate)


def _join_a(layers: Sequence[Layer], dtype: torch.dtype) -> Tensor | None:
    parts = [layer.a.to(dtype) for layer in layers if layer.a is not None]
    if len(parts) > 1:
        return torch.cat(parts)
    return parts[0] if parts else None


def slice_down(down: Tensor | None, layers: Sequence[Layer]) -> Iterator[Tensor | None]:
    """The columns of each layer; None where it has no adapter."""
    begin = 0
    for layer in layers:
        if layer.a is None or down is None:
            yield None
        else:
            end = begin + layer.a.shape[0]
            yield down[:, begin:end]
            begin = end


def multiply_up(x: Tensor, layer: Layer, down: Tensor | None) -> Tensor:
    """The output of one layer, [N, O]: its own product, and the adapter's added into it."""
    y = layer.multiply(x)
    if layer.b is None or down is None:
        return y
    add = torch.addmm if is_watched() else Tensor.addmm_
    total: Tensor = add(y, down, layer.b.to(x.dtype).t(), alpha=layer.scale)
    return total


def is_watched() -> bool:
    """Whether something sees each operation, as selective checkpointing: a result that it keeps is not written over."""
    return not torch.compiler.is_compiling() and is_in_torch_dispatch_mode()


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, skip: bool, plan: Any, seeds: Tensor | None, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        layers = unpack_layers(plan, seeds, tensors)
        rows = x.reshape(-1, x.shape[-1])
        down = multiply_down(rows, layers)
        ctx.plan = plan
        ctx.save_for_backward(x, down, seeds, *tensors)
        if skip:
            return tuple(x.new_empty((*x.shape[:-1], layer.num_outputs)) for layer in layers)
        downs = slice_down(down, layers)
        return tuple(
            multiply_up(rows, layer, part).view(*x.shape[:-1], layer.num_outputs)
            for layer, part in zip(layers, downs, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, down, seeds, *tensors = ctx.saved_tensors
        layers = unpack_layers(ctx.plan, seeds, tensors)
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        with without_autocast(x):
            back = multiply_back(rows, layers, x.dtype)
            inputs = x.reshape(-1, x.shape[-1])
            to_layers = backward_adapters(inputs, (down, back), rows, layers, ctx.needs_input_grad[4:])
            to_x = backward_input(rows, layers, back).view(x.shape) if ctx.needs_input_grad[0] else None
        return to_x, None, None, None, *to_layers


def multiply_back(gradients: Sequence[Tensor], layers: Sequence[Layer], dtype: torch.dtype) -> Tensor | None:
    """The gradients of `multiply_down`, [N, sum of r]: of each adapter `scale * gradient @ b`."""
    parts = []
    for gradient, layer in zip(gradients, layers, strict=True):
        if layer.b is not None:
            part = gradient @ layer.b.to(dtype)
            parts.append(part if layer.scale == 1.0 else part.mul_(layer.scale))
    if len(parts) > 1:
        return torch.cat(parts, 1)
    return parts[0] if parts else None


def backward_adapters(
    x: Tensor | None,
    small: tuple[Tensor | None, Tensor | None],
    gradients: Sequence[Tensor],
    layers: Sequence[Layer],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of the tensors of all layers, in the order of `pack_arguments`.

    Args:
        x: Shape [N, I]; None where neither `a` nor a weight needs a gradient.
        small: What `multiply_down` and `multiply_back` returned.
        gradients: Of the outputs, [N, O] each.
        layers: Those layers.
        needed: Which tensors need one, in the same order.  A saved tensor does not tell: checkpointing detaches it.
    """
    down, back = small
    downs = slice_down(down, layers)
    of_a = _differentiate_a(x, back, layers, any(needed[2::4]))
    to_layers: list[Tensor | None] = []
    for layer, gradient, own_down, to_a, needs in zip(
        layers, gradients, downs, of_a, _fours(needed), strict=True
    ):
        needs_data, needs_bias, _, needs_b = needs
        to_data = (gradient.t() @ x).to(layer.data.dtype) if needs_data and x is not None else None
        to_bias = gradient.sum(0).to(layer.bias.dtype) if needs_bias and layer.bias is not None else None
        to_b = None
        if needs_b and own_down is not None and layer.b is not None:
            # Scaled after the cast: of an adapter in fp32 it is rounded once.
            to_b = (gradient.t() @ own_down).to(layer.b.dtype)
            to_b = to_b if layer.scale == 1.0 else to_b.mul_(layer.scale)
        to_a = None if to_a is None or layer.a is None else to_a.to(layer.a.dtype)
        to_layers += (to_data, to_bias, to_a, to_b)
    return to_layers


def _differentiate_a(
    x: Tensor | None, back: Tensor | None, layers: Sequence[Layer], needed: bool
) -> Iterator[Tensor | None]:
    """The gradient of each `a`, [r, I], in the format of `x`."""
    if x is None or back is None or not needed:
        yield from [None] * len(layers)
    elif not _drop(layers):
        joined = slice_down((back.t() @ x).t(), layers)
        yield from (None if part is None else part.t() for part in joined)
    else:
        for layer, part in zip(layers, slice_down(back, layers), strict=True):
            if part is None or layer.seed is None:
                yield None if part is None else part.t() @ x
            else:
                yield differentiate_kept(part, x, layer.seed, layer.rate)


def _fours(needed: Sequence[bool]) -> Iterator[Sequence[bool]]:
    return (needed[index : index + 4] for index in range(0, len(needed), 4))


def backward_input(gradients: Sequence[Tensor], layers: Sequence[Layer], back: Tensor | None) -> Tensor:
    """The gradient of the input, [N, I], of all layers in one buffer.

    Args:
        gradients: Of the outputs, [N, O] each.
        layers: Those layers.
        back: What `multiply_back` returned.
    """
    dtype = gradients[0].dtype
    to_x = gradients[0] @ layers[0].widen(dtype)
    for gradient, layer in zip(gradients[1:], layers[1:], strict=True):
        to_x.addmm_(gradient, layer.widen(dtype))
    if back is not None and _drop(layers):
        add_each_(to_x, back, layers)
        return to_x
    a = _join_a(layers, dtype)
    if a is not None and back is not None:
        to_x.addmm_(back, a)
    return to_x


def add_each_(to_x: Tensor, back: Tensor, layers: Sequence[Layer]) -> None:
    """Adds what each adapter gives to the gradient of the input, where its mask let the input through."""
    for layer, part in zip(layers, slice_down(back, layers), strict=True):
        if layer.a is None or part is None:
            continue
        a = layer.a.to(to_x.dtype)
        if layer.seed is None:
            to_x.addmm_(part, a)
        else:
            add_kept_(to_x, part, a, layer.seed, layer.rate)
