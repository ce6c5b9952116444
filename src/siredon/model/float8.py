"""`fp8: true`: products of the layers' matrices in 8-bit floats, by torchao."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from siredon.config.sections.precision import PrecisionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware, read_capability
from siredon.model.recompute import find_layers

#: The first generation of NVIDIA GPUs that multiplies 8-bit floats with a scale for every row.
_FIRST = (9, 0)
#: `torch._scaled_mm` takes matrices whose sides are multiples of this.
_MULTIPLE = 16


def use_float8_products_(base: Any, section: PrecisionSection, hardware: Hardware) -> None:
    """Has the linear layers of the blocks multiply in 8-bit floats, if the config asks for it; the head does not.

    Weights stay in their format, under their names.  Each product rounds its two sides, in both passes, with a scale
    for every row: a token's rounding does not depend on other tokens, so packed documents stay apart.
    Source: Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433.

    Args:
        base: The model of transformers, without an adapter: what an adapter brings is not rounded.
        section: Whether.
        hardware: What it runs on.

    Raises:
        ModelError: No such hardware, or no layer that can.
    """
    if not section.fp8:
        return
    if not hardware.is_gpu or read_capability() < _FIRST:
        raise ModelError(
            f"`fp8: true` needs a GPU with 8-bit floats (NVIDIA, 9.0 or later); this is {hardware.describe()}",
            "Use `bf16: auto`.",
        )
    if not convert_linears_(base, emulate=False):
        raise ModelError(
            f"`fp8: true`: no linear layer of this model ({base.config.model_type}) has sides that are multiples of 16",
            "Use `bf16: auto`.",
        )


def convert_linears_(base: Any, *, emulate: bool) -> int:
    """Turns linear layers of the blocks into those of torchao, in place.

    Args:
        base: The model of transformers.
        emulate: Round to 8 bits and multiply in the layer's own format: what a CPU can do.

    Returns:
        How many were turned.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    blocks = [module for layer in find_layers(base) for module in layer.modules()]
    chosen = {id(module) for module in blocks if _fits(module)}
    # Rows of a batch are any number: torchao fills them up.
    settings = replace(Float8LinearConfig.from_recipe_name("rowwise"), pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(base, module_filter_fn=lambda module, _: id(module) in chosen, config=settings)
    return len(chosen)


def _fits(module: torch.nn.Module) -> bool:
    return (
        type(module) is torch.nn.Linear
        and module.in_features % _MULTIPLE == 0
        and module.out_features % _MULTIPLE == 0
    )
