"""Methods of bitsandbytes: `BitsAndBytesConfig` of transformers."""

from __future__ import annotations

from typing import Any, Literal

import torch

from siredon.export.method import Layers, Method, Options


def build_4bit_method(kind: Literal["nf4", "fp4"]) -> Method:
    """Blocks of 64 weights, each over its largest; their scales in 8 bits, 256 to a scale of scales.

    Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, https://arxiv.org/abs/2305.14314.
    """

    def build(layers: Layers, options: Options, dtype: torch.dtype) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_kept(layers),
        )

    return Method("bitsandbytes", lambda options: f"weights in {kind}, 64 to a scale in 8 bits", build)


def build_8bit_method() -> Method:
    """A scale for each row; inputs rounded to 8 bits as the model runs, but for their outliers.

    Source: Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", 2022,
    https://arxiv.org/abs/2208.07339.
    """

    def build(layers: Layers, options: Options, dtype: torch.dtype) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_kept(layers))

    described = "weights in int8, a scale for each row, inputs rounded to int8 as it runs"
    return Method("bitsandbytes", lambda options: described, build, mixes_tokens=True)


def _kept(layers: Layers) -> list[str]:
    return [layers.head] if layers.head else []
