"""A weight in 4 bits, two of them in a byte, that can be trained beside on any device.

torchao's own 4-bit weights have no gradient to the input of a layer: their products are kernels for answering, made
for some GPUs alone.  Its rounding is used here, and its way of extending it: a tensor class and a config of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torchao.core.config import AOBaseConfig
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor
from torchao.quantization.transform_module import register_quantize_module_handler
from torchao.utils import TorchAOBaseTensor
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

from siredon.model.widened_products import multiply

#: Weights in a row that share a scale.
GROUP = 32


class PackedInt4(TorchAOBaseTensor):
    """A matrix in 4 bits: `w = scale * q` with whole q from -8 to 7, the numbers of torchao's `IntxWeightOnlyConfig`.

    Args:
        qdata: [outputs, inputs / 2], bytes; the lower half of each is the weight of the even column.
        scale: [outputs, inputs / group], in the format from which the weight was rounded.
        shape: [outputs, inputs].
    """

    # PyTorch's compiler copies these as lists.
    tensor_data_names: ClassVar[list[str]] = ["qdata", "scale"]
    tensor_attribute_names: ClassVar[list[str]] = ["shape"]

    def __new__(cls, qdata: torch.Tensor, scale: torch.Tensor, shape: torch.Size) -> PackedInt4:
        """A tensor of this shape, in the format of its scales."""
        made: PackedInt4 = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=scale.dtype, device=qdata.device, requires_grad=False
        )
        return made

    def __init__(self, qdata: torch.Tensor, scale: torch.Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.qdata = qdata
        self.scale = scale

    @classmethod
    def pack(cls, weight: torch.Tensor) -> PackedInt4:
        """Rounds a matrix whose rows are whole groups of `GROUP`."""
        rounded = IntxUnpackedToInt8Tensor.from_hp(weight, (1, GROUP), torch.int4)  # type: ignore[attr-defined]
        low, high = rounded.qdata[:, 0::2], rounded.qdata[:, 1::2]
        packed = (low & 15) | (high << 4)
        return cls(packed.contiguous().view(torch.uint8), rounded.scale, weight.shape)

    def dequantize(self) -> torch.Tensor:
        """The matrix as products use it: `scale * q`."""
        signed = self.qdata.view(torch.int8)
        # A shift to the right keeps the sign, so one to the left and back spreads that of the lower half.
        pairs = torch.stack(((signed << 4) >> 4, signed >> 4), dim=-1)
        groups = pairs.reshape(*self.scale.shape, GROUP).to(self.scale.dtype)
        return (groups * self.scale.unsqueeze(-1)).flatten(1)


def _multiply(function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    inputs, weight, *rest = args
    return multiply(inputs, weight, rest[0] if rest else kwargs.get("bias"))


PackedInt4.implements(torch.ops.aten.linear.default)(_multiply)
PackedInt4.implements_torch_function(torch.nn.functional.linear)(_multiply)


@dataclass
class PackedInt4WeightConfig(AOBaseConfig):
    """Asks torchao's `quantize_` to hold the weights of linear layers as `PackedInt4`."""

    group_size: int = GROUP


def _pack_layer(module: torch.nn.Module, config: PackedInt4WeightConfig) -> torch.nn.Module:
    """A layer whose rows are no whole groups stays as it is; `find_unfit` finds it."""
    weight = module.get_parameter("weight")
    if weight.shape[1] % config.group_size == 0:
        module.weight = torch.nn.Parameter(PackedInt4.pack(weight.data), requires_grad=False)
    return module


register_quantize_module_handler(PackedInt4WeightConfig)(_pack_layer)


class TrainableQuantizer(TorchAoHfQuantizer):
    """What says to transformers that the model was read by torchao, and can be trained beside.

    transformers takes it that 4 bits by torchao have no gradient, which is so for torchao's own.
    """

    is_trainable = True


def find_unfit(model: Any) -> tuple[str, int] | None:
    """Name and inputs of a layer, not the head, that could not be rounded; None if there is none."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear) and module is not head
        if is_linear and module.in_features % GROUP:
            return name, module.in_features
    return None
