"""Weights rounded to 4 bits and widened again, one at a time: the base beside which a QLoRA adapter was trained."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.log import note
from siredon.model.quantized import QUANTIZERS


class Rounding:
    """What `load_in_4bit` makes of each weight.

    Args:
        model: The base without its weights.
        section: How weights are rounded.
        dtype: The format in which training reads weights, before they are rounded, and computes with them.
        device: Where they are rounded, see `merge_device`.
    """

    def __init__(self, model: Any, section: QuantizationSection, dtype: torch.dtype, device: str) -> None:
        from bitsandbytes.nn import Linear4bit
        from transformers.quantizers import AutoHfQuantizer

        self._part = QUANTIZERS.load("load_in_4bit")
        settings = self._part.build(section, dtype)
        note(f"base: {self._part.describe(section, dtype)}")
        self._device = device
        self._dtype = dtype
        copy = deepcopy(model)
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        quantizer.preprocess_model(model=copy, device_map={"": self._device})
        layers = ((name, layer) for name, layer in copy.named_modules() if isinstance(layer, Linear4bit))
        self._layers = {f"{name}.weight": layer for name, layer in layers}
        self._off, self._size = 0.0, 0.0

    @property
    def names(self) -> set[str]:
        """The weights that are rounded."""
        return set(self._layers)

    def apply(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Name in the model -> tensor as training held it, in fp32."""
        return {name: self._round(name, value) for name, value in values.items()}

    def _round(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        held = value.to(self._dtype)
        if name not in self._layers:
            return held.float()
        from bitsandbytes.nn import Params4bit

        layer = self._layers.pop(name)
        options = vars(layer.weight)
        layer.weight = Params4bit(held, requires_grad=False, **options).to(self._device)
        widened: torch.Tensor = self._part.widen(layer).float().cpu()
        self._off += float((widened.double() - held.double()).square().sum())
        self._size += float(held.double().square().sum())
        return widened

    def report(self) -> None:
        """Says how far the rounded weights are from the unrounded ones: relative, in the Frobenius norm."""
        error = (self._off / max(self._size, 1e-300)) ** 0.5
        note(
            f"merged into the rounded weights of training, widened: {100 * error:.2f} % from the unrounded ones"
        )
