"""Products with weights of torchao that are widened for them, and widened again for the gradient.

torchao's own products leave the widened weight to autograd: until the backward pass every layer has a copy in 16 bits
beside the one in few, unless gradient checkpointing drops it.
"""

from __future__ import annotations

from typing import Any

import torch


class WidenedLinear(torch.nn.Linear):
    """A linear layer whose frozen weight is a tensor of torchao; nothing is kept for the backward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `F.linear(input, weight.dequantize(), bias)`, [..., inputs] -> [..., outputs]."""
        return multiply(input, self.weight, self.bias)


def multiply(inputs: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.linear(inputs, weight.dequantize(), bias)`, in the format of autocast where that is on."""
    kind = inputs.device.type
    # A function of ours is not among those that autocast knows.
    if torch.is_autocast_enabled(kind):
        inputs = inputs.to(torch.get_autocast_dtype(kind))
    bias = None if bias is None else bias.to(inputs.dtype)
    with torch.autocast(kind, enabled=False):
        product: torch.Tensor = _Product.apply(inputs, bias, weight)  # type: ignore[no-untyped-call]
    return product


def keep_no_wide_copies_(model: torch.nn.Module) -> None:
    """Makes all linear layers with weights of torchao `WidenedLinear`."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and type(module.weight) is not torch.nn.Parameter:
            module.__class__ = WidenedLinear


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, bias: torch.Tensor | None, weight: Any) -> torch.Tensor:
        ctx.weight = weight
        return torch.nn.functional.linear(inputs, weight.dequantize().to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        gradient = gradients[0]
        to_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return gradient @ ctx.weight.dequantize().to(gradient.dtype), to_bias, None
