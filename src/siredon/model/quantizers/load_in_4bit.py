"""`load_in_4bit: true`: frozen weights of linear layers in 4 bits, by bitsandbytes.

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.model.quantized import Quantizer


def build_4bit(section: QuantizationSection, dtype: torch.dtype) -> Any:
    """NF4 with double quantization, products in `dtype`, unless `bnb_config_kwargs` says otherwise."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, **_options(section, dtype))


def describe_4bit(section: QuantizationSection, dtype: torch.dtype) -> str:
    """Format of the weights, and of the products."""
    options = _options(section, dtype)
    twice = " with double quantization" if options["bnb_4bit_use_double_quant"] else ""
    compute = str(options["bnb_4bit_compute_dtype"]).removeprefix("torch.")
    return (
        f"linear layers held in 4 bits ({str(options['bnb_4bit_quant_type']).upper()}{twice}), products in {compute}; "
        f"embeddings, norms and head in {str(dtype).removeprefix('torch.')}"
    )


def widen_4bit(layer: Any) -> torch.Tensor:
    """The weight of a layer, in the format from which it was rounded."""
    from bitsandbytes.functional import dequantize_4bit

    widened: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return widened


def settle_4bit_(model: Any) -> None:
    """Keeps weights on a CPU in the order in which training uses them.

    On CPUs with AVX512-BF16 the first product in evaluation mode reorders a weight for products that have no
    gradient: after one validation, nothing before that layer would be trained.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _options(section: QuantizationSection, dtype: torch.dtype) -> dict[str, Any]:
    defaults = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    return {**defaults, **(section.bnb_config_kwargs or {})}


QUANTIZER = Quantizer(build_4bit, describe_4bit, widen_4bit, settle_4bit_)
