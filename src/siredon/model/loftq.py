"""LoftQ: LoRA that starts from what rounding the base to 4 bits takes away.

The base weight W becomes Q, W rounded to 4 bits (nf4, blocks of 64) and back; A and B become the best approximation of
W - Q of their rank, so that Q + s B A is near W.  The trained adapter belongs to Q: to the base loaded in 4 bits, or
rounded again when the adapter is loaded here.

Source: Li et al., "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", 2023,
https://arxiv.org/abs/2310.08659.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

#: Beside an adapter whose base is rounded.
ROUNDED = "adapter_base_4bit.txt"
#: What that file says.
ROUNDED_NOTE = (
    "The adapter in this folder was trained on its base rounded to 4 bits (bitsandbytes: nf4, blocks of 64, without "
    "double quantization): load the base so.\n"
)
_BLOCK = 64


def start_loftq_(adapted: Any) -> None:
    """Rounds the adapted layers of the base, and starts LoRA from what is lost.

    Once: after further turns of rounding and approximation, which LoftQ also knows, Q would no longer be what W is in
    4 bits, and the adapter of no use without a base of its own.

    Args:
        adapted: A model with LoRA on linear layers, of whole weights.
    """
    for layer in _lora_layers(adapted):
        weight = layer.get_base_layer().weight
        rounded = round_to_4bit(weight.detach().float())
        rank, scale = layer.r["default"], layer.scaling["default"]
        u, s, v = torch.linalg.svd(weight.detach().float() - rounded, full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        up, down = u[:, :rank] * root, root[:, None] * v[:rank]
        weight.data = rounded.to(weight.dtype)
        for part, start in ((layer.lora_A["default"], down), (layer.lora_B["default"], up)):
            part.weight.data = start.to(part.weight.dtype).contiguous()


def round_base_(adapted: Any, folder: Path) -> None:
    """Rounds the adapted layers of the base, if the adapter in `folder` was trained on a rounded one."""
    if not (folder / ROUNDED).is_file():
        return
    for layer in _lora_layers(adapted):
        weight = layer.get_base_layer().weight
        weight.data = round_to_4bit(weight.detach().float()).to(weight.dtype)


def round_to_4bit(weight: torch.Tensor) -> torch.Tensor:
    """The nearest of 16 values per block, times the block's largest: what a layer of bitsandbytes computes with."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=_BLOCK, quant_type="nf4")
    rounded: torch.Tensor = dequantize_4bit(packed, state)
    return rounded


def _lora_layers(adapted: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in adapted.modules() if isinstance(module, LoraLayer)]
