"""Methods of torchao: a pair of formats -> `TorchAoConfig` of transformers, with the numbers that `qat` learns with.

Source: https://github.com/pytorch/ao.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from siredon.config.sections.quantization import PtqOptions, QatOptions
from siredon.export.method import Device, Layers, Method
from siredon.model.rounding import build_layer_rounding, build_table_rounding


def build_torchao_method(weights: str, inputs: str | None = None, device: Device | None = None) -> Method:
    """The method for a pair of formats, as `ROUNDINGS` has them.

    Args:
        weights: Format of weights.
        inputs: That of inputs; None leaves them.
        device: What answers with them; None for any device.
    """
    return Method("torchao", describe, build_config, (weights, inputs), device)


def build_config(layers: Layers, options: PtqOptions | QatOptions, dtype: torch.dtype) -> Any:
    """Every linear layer but the head is rounded; embeddings where `quantize_embedding` asks for it."""
    from torchao.quantization import FqnToConfig
    from transformers import TorchAoConfig

    rounding = build_layer_rounding(options)
    if not options.quantize_embedding:
        return TorchAoConfig(rounding, modules_to_not_convert=[layers.head] if layers.head else [])
    # One pattern for the same layer of all blocks
    patterns = dict.fromkeys("re:" + re.sub(r"\d+", r"\\d+", re.escape(name)) for name in layers.linear)
    named = dict.fromkeys(layers.tables, build_table_rounding(options)) | dict.fromkeys(patterns, rounding)
    return TorchAoConfig(FqnToConfig(named), include_input_output_embeddings=True)


def describe(options: PtqOptions | QatOptions) -> str:
    """Formats, and how many weights share a scale."""
    weights, inputs = options.formats
    group = options.weights_per_scale
    shown = f"weights in {weights}, {f'{group} to a scale' if group else 'a scale for each row'}"
    shown += f", inputs rounded to {inputs} as it runs" if inputs else ""
    return f"{shown}, embeddings too" if options.quantize_embedding else shown
