"""Products with weights in 8 bits that keep nothing for the backward pass but the weights.

bitsandbytes puts the input of every layer on its node of the graph, beside what autograd saves, and never uses it
where the weight is frozen.  Gradient checkpointing drops what autograd saves, so those inputs, and copies of their
outlying columns, stayed for all layers at once: 2 bytes x tokens x inputs of each linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.autograd._functions import MatMul8bitFp, MatMul8bitLt
from bitsandbytes.nn import Linear8bitLt


class LeanLinear(Linear8bitLt):
    """A layer of bitsandbytes with frozen weights in 8 bits: the same numbers, and no input kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear8bitLt.forward`, [..., inputs] -> [..., outputs]."""
        self.state.is_training = self.training
        if self.weight.CB is not None:
            self.init_8bit_state()
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # bitsandbytes has kernels for products of whole numbers on GPUs alone.
        widens = self.training and x.device.type in ("cpu", "xpu")
        product = _WidenedProduct if widens else _RoundedProduct
        out: torch.Tensor = product.apply(x, self.weight, None, bias, self.state)
        self.weight.data = self.state.CB
        return out


class _RoundedProduct(MatMul8bitLt):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        out: torch.Tensor = MatMul8bitLt.forward(ctx, *args)
        ctx.tensors = (None, None, None)
        return out


class _WidenedProduct(MatMul8bitFp):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        out: torch.Tensor = MatMul8bitFp.forward(ctx, *args)
        ctx.A = None
        return out


def keep_no_inputs_(model: torch.nn.Module) -> None:
    """Makes all layers with frozen weights in 8 bits `LeanLinear`."""
    for module in model.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = LeanLinear
