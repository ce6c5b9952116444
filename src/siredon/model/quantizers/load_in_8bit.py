"""`load_in_8bit: true`: frozen weights of linear layers in 8 bits, by bitsandbytes.

Source: Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", 2022,
https://arxiv.org/abs/2208.07339.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.model.quantized import Quantizer


def build_8bit(section: QuantizationSection, dtype: torch.dtype) -> Any:
    """One scale for each row of a weight; inputs are rounded to 8 bits too, whatever `dtype` is."""
    from transformers import BitsAndBytesConfig

    options = dict(section.bnb_config_kwargs or {})
    if "llm_int8_threshold" in options:
        options["llm_int8_threshold"] = float(options["llm_int8_threshold"])
    return BitsAndBytesConfig(load_in_8bit=True, **options)


def describe_8bit(section: QuantizationSection, dtype: torch.dtype) -> str:
    """Format of the weights, and of the products."""
    return (
        "linear layers held in 8 bits, their inputs rounded to 8 bits from float16; "
        f"embeddings, norms and head in {str(dtype).removeprefix('torch.')}"
    )


def widen_8bit(layer: Any) -> torch.Tensor:
    """The weight of a layer: a product also rounds its input, which widening does not undo."""
    from bitsandbytes.functional import int8_vectorwise_dequant

    # The first product moves the scales from the weight to the layer.
    scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    widened: torch.Tensor = int8_vectorwise_dequant(layer.weight.data, scales)
    return widened


def settle_8bit_(model: Any) -> None:
    """Lets products keep no inputs, which gradient checkpointing would not drop."""
    from siredon.model.products_8bit import keep_no_inputs_

    keep_no_inputs_(model)


QUANTIZER = Quantizer(build_8bit, describe_8bit, widen_8bit, settle_8bit_)
