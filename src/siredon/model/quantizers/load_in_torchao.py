"""`load_in_torchao: int8` (or `fp8`): frozen weights of linear layers in 8 bits, by torchao; inputs stay as they are.

Source: https://github.com/pytorch/ao, weight-only quantization.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.model.quantized import Quantizer


def build_torchao(section: QuantizationSection, dtype: torch.dtype) -> Any:
    """One scale for each row of a weight; products in `dtype`, of weights that are widened for them."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    chosen = (
        Int8WeightOnlyConfig(version=2) if section.load_in_torchao == "int8" else Float8WeightOnlyConfig()
    )
    return TorchAoConfig(chosen)


def describe_torchao(section: QuantizationSection, dtype: torch.dtype) -> str:
    """Format of the weights, and of the products."""
    kind = "whole numbers" if section.load_in_torchao == "int8" else "floats"
    number_format = str(dtype).removeprefix("torch.")
    return (
        f"linear layers held as 8-bit {kind}, products in {number_format}; "
        f"embeddings, norms and head in {number_format}"
    )


def widen_torchao(layer: Any) -> torch.Tensor:
    """The weight of a layer, in the format from which it was rounded."""
    widened: torch.Tensor = layer.weight.dequantize()
    return widened


QUANTIZER = Quantizer(build_torchao, describe_torchao, widen_torchao)
