"""Rounding to floats of few bits: as published, as torchao holds them at last, and passed by the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.config.sections.quantization import ROUNDINGS, QatOptions
from siredon.errors import ModelError
from siredon.model.float_rounding import (
    StraightThrough,
    round_fp8,
    round_int4_by_fp8,
    round_mxfp4,
    round_nvfp4,
)
from siredon.model.rounding import build_layer_rounding, round_in_training_, switch_rounding_

IDS = torch.randint(8, 500, (2, 24), generator=torch.Generator().manual_seed(0))
#: Sign, 4 bits of exponent biased by 7, 3 of mantissa; the largest code of each sign is no number.
E4M3 = [(m / 8 if e == 0 else 1 + m / 8) * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8)][:-1]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FORMATS = [pair for pair, fixed in ROUNDINGS.items() if fixed is not None]


def nearest(x: torch.Tensor, values: list[float]) -> torch.Tensor:
    """Each number to the nearest of these or of their negatives."""
    grid = torch.tensor([*values, *(-value for value in values)], dtype=torch.float64)
    return grid[(x.unsqueeze(-1) - grid).abs().argmin(-1)]


def naive_fp8(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return nearest(x / scale, E4M3) * scale


def naive_nvfp4(x: torch.Tensor) -> torch.Tensor:
    whole = x.abs().max() / (448 * 6)
    blocks = x.unflatten(-1, (-1, 16))
    scale = nearest(blocks.abs().amax(-1, keepdim=True) / 6 / whole, E4M3) * whole
    return (nearest(blocks / scale, E2M1) * scale).flatten(-2)


def naive_mxfp4(x: torch.Tensor) -> torch.Tensor:
    blocks = x.unflatten(-1, (-1, 32))
    scale = 2 ** torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True) / 6))
    return (nearest(blocks / scale, E2M1) * scale).flatten(-2)


def naive_int4(x: torch.Tensor) -> torch.Tensor:
    groups = naive_fp8(x).unflatten(-1, (-1, 128))
    scale = groups.abs().amax(-1, keepdim=True) / 8
    return ((groups / scale).round().clamp(-8, 7) * scale).flatten(-2)


@pytest.mark.parametrize(
    ("ours", "naive"),
    [
        (round_fp8, naive_fp8),
        (round_nvfp4, naive_nvfp4),
        (round_mxfp4, naive_mxfp4),
        (round_int4_by_fp8, naive_int4),
    ],
)
def test_numbers_are_those_of_the_formula_and_the_gradient_passes(
    ours: Callable[[torch.Tensor], torch.Tensor], naive: Callable[[torch.Tensor], torch.Tensor]
):
    x = torch.randn(48, 256, generator=torch.Generator().manual_seed(0)) * 0.02
    expected = naive(x.double())
    off = (ours(x).double() - expected).abs()
    # A number half-way between two values can go the other way in fp32; eighths of an 8-bit float often are.
    assert (off > 1e-5 * x.abs().max()).double().mean() < 5e-3
    assert off.max() < 0.5 * x.abs().max()
    assert ours(x.bfloat16()).dtype == torch.bfloat16
    x.requires_grad_()
    rounded = StraightThrough(ours)(x)
    rounded.backward(torch.full_like(x, 1e-6))
    assert torch.equal(rounded, ours(x.detach()))
    assert torch.equal(x.grad, torch.full_like(x, 1e-6))


@pytest.mark.parametrize("ours", [round_fp8, round_nvfp4, round_mxfp4, round_int4_by_fp8])
def test_zeros_stay_zeros_and_change_nothing_beside_them(ours: Callable[[torch.Tensor], torch.Tensor]):
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    x[1] = 0
    rounded = ours(x)
    assert torch.equal(rounded[1], x[1])
    rest = [0, 2, 3]
    assert torch.equal(rounded[rest], ours(x[rest]))
    assert torch.equal(ours(torch.zeros(2, 256)), torch.zeros(2, 256))


def test_torchao_rounds_inputs_as_training_felt_them_rows_of_zeros_too():
    from torchao.quantization.quantize_.workflows import Float8Tensor

    config = build_layer_rounding(build_options(("fp8", "fp8")))
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[0] = 0
    inputs = Float8Tensor.from_hp(
        x, config.activation_dtype, config.granularity[0], hp_value_lb=config.activation_value_lb
    )
    assert torch.equal(inputs.dequantize(), round_fp8(x))


def build_options(formats: tuple[str, str | None]) -> QatOptions:
    return QatOptions(weight_dtype=formats[0], activation_dtype=formats[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("formats", FORMATS)
def test_every_pair_of_formats_learns_and_stands_still_when_off(formats: tuple[str, str | None]):
    options = build_options(formats)
    model = wide_model() if options.weights_per_scale == 128 else build_model(512, tied=False)
    with torch.no_grad():
        plain = model(IDS).logits
    names = [name for name, _ in model.named_parameters()]
    round_in_training_(model, options)
    assert [name for name, _ in model.named_parameters()] == names
    switch_rounding_(model, on=False)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain)
        switch_rounding_(model, on=True)
        assert (model(IDS).logits - plain).abs().max() > 1e-3
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(4):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        for name, weight in model.named_parameters():
            assert (weight.grad == 0).double().mean() < 0.5 or "embed" in name, name
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def wide_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=512, **shape, initializer_range=0.08))


@pytest.mark.parametrize("formats", [("fp8", None), ("nvfp4", None), ("mxfp4", "mxfp4")])
def test_the_weight_that_is_felt_is_the_one_that_torchao_holds_at_last(formats: tuple[str, str | None]):
    from torchao.quantization import quantize_

    options = build_options(formats)
    # torchao holds MXFP4 beside bfloat16 alone.
    for dtype in (torch.float32, torch.bfloat16)[formats[0] == "mxfp4" :]:
        torch.manual_seed(0)
        holder = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False, dtype=dtype))
        weight = holder[0].weight.detach().clone()
        quantize_(holder, build_layer_rounding(options))
        felt = {"fp8": round_fp8, "nvfp4": round_nvfp4, "mxfp4": round_mxfp4}[formats[0]](weight)
        assert torch.equal(felt, holder[0].weight.dequantize())


def test_layers_that_hold_no_whole_blocks_are_refused():
    with pytest.raises(
        ModelError, match=r"`qat.weight_dtype: int4` takes 128 weights to a scale: the 64 inputs"
    ):
        round_in_training_(build_model(512), build_options(("int4", "fp8")))
