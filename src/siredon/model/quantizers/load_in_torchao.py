"""`load_in_torchao: int8` (or `fp8`, `int4`): frozen weights of linear layers by torchao; inputs stay as they are.

Source: https://github.com/pytorch/ao, weight-only quantization.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.errors import ModelError
from siredon.model.quantized import Quantizer, find_rounded

_KINDS = {"int8": "8-bit whole numbers", "fp8": "8-bit floats", "int4": "4-bit whole numbers, 32 to a scale"}


def build_torchao(section: QuantizationSection, dtype: torch.dtype) -> Any:
    """A scale for each row of a weight, or each group of 4-bit ones; products in `dtype`, of widened weights."""
    from transformers import TorchAoConfig

    return TorchAoConfig(_choose(section))


def describe_torchao(section: QuantizationSection, dtype: torch.dtype) -> str:
    """Format of the weights, and of the products."""
    number_format = str(dtype).removeprefix("torch.")
    return (
        f"linear layers held as {_KINDS[str(section.load_in_torchao)]}, products in {number_format}; "
        f"embeddings, norms and head in {number_format}"
    )


def widen_torchao(layer: Any) -> torch.Tensor:
    """The weight of a layer, in the format from which it was rounded."""
    widened: torch.Tensor = layer.weight.dequantize()
    return widened


def settle_torchao_(model: Any) -> None:
    """Makes rows of zeros zero again; lets products keep no wide copies; says that 4-bit ones can be trained beside.

    Raises:
        ModelError: Inputs of a layer that come in no whole groups of 4-bit weights.
    """
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    from siredon.model.packed_int4 import GROUP, PackedInt4WeightConfig, TrainableQuantizer, find_unfit
    from siredon.model.widened_products import keep_no_wide_copies_

    mend_empty_rows_(model)
    settings = model.hf_quantizer.quantization_config
    if isinstance(settings.quant_type, PackedInt4WeightConfig):
        unfit = find_unfit(model)
        if unfit is not None:
            raise ModelError(
                f"`load_in_torchao: int4`: the {unfit[1]} inputs of {unfit[0]} are no whole number of groups "
                f"of {GROUP}",
                "Use `load_in_torchao: int8`, or `load_in_4bit: true` with `adapter: qlora`.",
            )
        model.hf_quantizer = TrainableQuantizer(settings, pre_quantized=False)
    # Others that a folder may hold also round their inputs.
    if isinstance(
        settings.quant_type, (PackedInt4WeightConfig, Float8WeightOnlyConfig, Int8WeightOnlyConfig)
    ):
        keep_no_wide_copies_(model)


def mend_empty_rows_(model: Any) -> None:
    """Makes rows of 8-bit floats zero whose scale is 0: torchao divides by it, and holds NaN for a row of zeros.

    Args:
        model: As transformers has read or rounded it.
    """
    from torchao.quantization.quantize_.workflows import Float8Tensor

    for _, layer in find_rounded(model):
        weight = layer.get_parameter("weight").data
        if isinstance(weight, Float8Tensor):
            empty = weight.scale == 0
            weight.qdata.view(torch.uint8).masked_fill_(empty, 0)
            weight.scale.masked_fill_(empty, 1.0)


def _choose(section: QuantizationSection) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    if section.load_in_torchao == "int4":
        from siredon.model.packed_int4 import PackedInt4WeightConfig

        return PackedInt4WeightConfig()
    return Int8WeightOnlyConfig(version=2) if section.load_in_torchao == "int8" else Float8WeightOnlyConfig()


QUANTIZER = Quantizer(build_torchao, describe_torchao, widen_torchao, settle_torchao_)
