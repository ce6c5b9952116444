"""Layers of `qat` that round to floats of few bits, and a gradient that passes the rounding whole.

torchao's own layers for these formats round by casts, which round the gradient that comes back as well: in 8-bit
floats most of it becomes zero.  Those for 4-bit floats run on the newest GPUs alone.  So its tensors, which the
trained model is held in at last, are used for the numbers: rounded and widened again, in the format of the run.

Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
2013, https://arxiv.org/abs/1308.3432 (the gradient); Micikevicius et al., "FP8 Formats for Deep Learning", 2022,
https://arxiv.org/abs/2209.05433; "OCP Microscaling Formats (MX) Specification", 2023 (MXFP4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchao.prototype.mx_formats import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import PerRow
from torchao.quantization.qat import FakeQuantizedLinear
from torchao.quantization.qat.fake_quantize_config import Int4WeightFakeQuantizeConfig
from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase, Int4WeightFakeQuantizer
from torchao.quantization.quantize_.workflows import Float8Tensor

from siredon.config.sections.quantization import PtqOptions, QatOptions

Rounding = Callable[[torch.Tensor], torch.Tensor]

#: Taken as the largest number of a row that has only smaller ones: one of zeros, as the embedding of a padding token
#: often is, would be divided by 0, and NaN reaches every token after it through attention.
LEAST = 1e-12


class StraightThrough(FakeQuantizerBase):
    """Rounds a tensor; its gradient is that of the identity.

    Args:
        rounding: Tensor -> the same, rounded.
    """

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding
        self.enabled = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> the same shape and format."""
        if not self.enabled:
            return x
        rounded: torch.Tensor = _Rounded.apply(x, self.rounding)  # type: ignore[no-untyped-call]
        return rounded

    def __repr__(self) -> str:
        return f"StraightThrough({self.rounding.__name__})"


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def round_fp8(x: torch.Tensor) -> torch.Tensor:
    """Each row over its largest number, to E4M3 floats up to 448, and back."""
    rounded: torch.Tensor = Float8Tensor.from_hp(
        x, torch.float8_e4m3fn, PerRow(), hp_value_lb=LEAST
    ).dequantize()
    return rounded


def round_nvfp4(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 16 to E2M1 floats up to 6, a scale in E4M3 for each and one in fp32 for the whole tensor, and back."""
    wide = x.float().contiguous()
    whole = per_tensor_amax_to_scale(wide.abs().max().clamp(min=LEAST))
    rounded: torch.Tensor = NVFP4Tensor.to_nvfp4(wide, per_tensor_scale=whole).dequantize(torch.float32)
    return rounded.to(x.dtype)


def round_mxfp4(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 32 to E2M1 floats up to 6, a power of two for each, and back."""
    rounded = MXTensor.to_mx(
        x.float().contiguous(), torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.RCEIL
    ).dequantize(torch.float32)
    return rounded.to(x.dtype)  # type: ignore[no-any-return]


def round_int4_by_fp8(x: torch.Tensor) -> torch.Tensor:
    """As `round_fp8`, then each 128 of a row, over an eighth of their largest, to whole numbers up to 7; and back."""
    rounding = Int4WeightFakeQuantizer(Int4WeightFakeQuantizeConfig(128, torch.float8_e4m3fn))
    rounded: torch.Tensor = rounding(x)
    return rounded


_OF_WEIGHTS: dict[tuple[str, str | None], Rounding] = {
    ("int4", "fp8"): round_int4_by_fp8,
    ("fp8", None): round_fp8,
    ("fp8", "fp8"): round_fp8,
    ("nvfp4", None): round_nvfp4,
    ("nvfp4", "nvfp4"): round_nvfp4,
    ("mxfp4", "mxfp4"): round_mxfp4,
}
_OF_INPUTS: dict[str, Rounding] = {"fp8": round_fp8, "nvfp4": round_nvfp4, "mxfp4": round_mxfp4}


def build_float_layer(layer: torch.nn.Linear, options: QatOptions) -> torch.nn.Module:
    """A linear layer with the same parameters that rounds its weight, and its input if asked."""
    inputs = options.formats[1]
    rounded: torch.nn.Module = FakeQuantizedLinear.from_linear(layer)
    rounded.weight_fake_quantizer = StraightThrough(_OF_WEIGHTS[options.formats])
    if inputs is not None:
        rounded.activation_fake_quantizer = StraightThrough(_OF_INPUTS[inputs])
    return rounded


def build_float_config(options: QatOptions | PtqOptions) -> Any:
    """The config of torchao that holds linear layers in these formats."""
    from torchao.prototype.mx_formats import (
        MXDynamicActivationMXWeightConfig,
        NVFP4DynamicActivationNVFP4WeightConfig,
        NVFP4WeightOnlyConfig,
    )
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8DynamicActivationInt4WeightConfig,
        Float8WeightOnlyConfig,
    )

    fp4 = torch.float4_e2m1fn_x2
    configs: dict[tuple[str, str | None], Callable[[], Any]] = {
        ("int4", "fp8"): Float8DynamicActivationInt4WeightConfig,
        ("fp8", None): Float8WeightOnlyConfig,
        ("fp8", "fp8"): lambda: Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(), activation_value_lb=LEAST
        ),
        ("nvfp4", None): NVFP4WeightOnlyConfig,
        ("nvfp4", "nvfp4"): NVFP4DynamicActivationNVFP4WeightConfig,
        ("mxfp4", "mxfp4"): lambda: MXDynamicActivationMXWeightConfig(activation_dtype=fp4, weight_dtype=fp4),
    }
    return configs[options.formats]()
