"""Weights in few bits: rounded as published, left as they are by training, and widened exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.config.load import load_config
from siredon.errors import ModelError
from siredon.hardware import probe_hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import load_adapter
from siredon.model.load import Source, count_parameters, load_model
from siredon.model.quantized import check_trainable, find_rounded, widen_

LORA = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True}
QLORA = {**LORA, "adapter": "qlora", "load_in_4bit": True}
WAYS: dict[str, dict[str, Any]] = {
    "nf4-twice": QLORA,
    "nf4": {**QLORA, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
    "fp4": {**QLORA, "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}},
    "8bit": {**LORA, "load_in_8bit": True},
    "torchao-int8": {**LORA, "load_in_torchao": "int8"},
    "torchao-fp8": {**LORA, "load_in_torchao": "fp8"},
}
IDS = torch.randint(8, 500, (2, 24), generator=torch.Generator().manual_seed(0))
#: The sixteen values of NF4, from the paper's appendix, and those of FP4 in bitsandbytes.
NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""


def load(path: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    from siredon.model.tokenizer import load_tokenizer

    config, _ = load_config(str(path))
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    return load_model(Source.of(config), dtype, tokenizer, probe_hardware(), seed=0), config


def bytes_of(model: Any) -> dict[str, bytes]:
    """Every frozen weight, as it lies in memory: of a weight of torchao, its parts."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            continue
        parts = [weight.data] if type(weight.data) is torch.Tensor else [weight.qdata, weight.scale]
        found[name] = b"".join(
            part.detach().contiguous().view(torch.uint8).numpy().tobytes() for part in parts
        )
    return found


@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        *((way, torch.float32) for way in WAYS if way != "nf4"),
        ("nf4-twice", torch.bfloat16),
    ],
)
def test_training_moves_the_adapter_alone_and_what_is_saved_gives_the_same_logits(
    write_config: Any, tmp_path: Path, way: str, dtype: torch.dtype
):
    path = write_config(**WAYS[way])
    base, config = load(path, dtype)
    check_trainable(base, config.adapter)
    model = attach_adapter_(base, config.adapter, seed=0)
    before = bytes_of(model)
    assert len(list(find_rounded(base))) == 14
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.5)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert bytes_of(model) == before
    graded = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert graded == {name for name, _ in model.named_parameters() if "lora_" in name}
    model.save_pretrained(tmp_path / "adapter")
    again = load_adapter(load(path, dtype)[0], tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(model.eval()(IDS).logits, again.eval()(IDS).logits)


def naive_blocks(weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Each block of 64 weights divided by its largest, each quotient taken to the nearest of `values`."""
    blocks = weight.double().reshape(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / scales).unsqueeze(-1).sub(values).abs().argmin(-1)
    return (values[nearest] * scales).reshape(weight.shape)


def naive_rows(weight: torch.Tensor, most: float) -> torch.Tensor:
    """Each row divided by its largest weight over `most`, and rounded."""
    scales = weight.double().abs().amax(1, keepdim=True) / most
    return (weight.double() / scales).round().clamp(-128, 127) * scales


@pytest.mark.parametrize("way", ["nf4", "8bit", "torchao-int8"])
def test_a_widened_weight_is_that_of_the_formula_and_of_the_products(
    write_config: Any, model_folder: Path, way: str
):
    from safetensors.torch import load_file

    whole = load_file(model_folder / "model.safetensors")
    base, _ = load(write_config(**WAYS[way]))
    with torch.no_grad():
        rounded_logits = base.eval()(IDS).logits
        widened = widen_(base)
        difference = (widened(IDS).logits - rounded_logits).abs().max().item()
    assert difference < (0.5 if way == "8bit" else 1e-4)
    values = torch.tensor([float(word) for word in NF4.split()], dtype=torch.float64)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        weight = whole[f"{name}.weight"]
        # 8 bits have 256 values: torchao spreads a row over all of them, bitsandbytes over 255.
        most = 127.5 if way == "torchao-int8" else 127
        naive = naive_blocks(weight, values) if way == "nf4" else naive_rows(weight, most)
        off = (widened.get_submodule(name).weight.double() - naive).abs()
        # A weight half-way between two values may go either way.
        assert off.max() < 0.01 * weight.abs().max()
        assert off.mean() < 1e-3 * weight.abs().mean()


def test_packed_weights_are_counted_as_weights(write_config: Any):
    whole = count_parameters(load(write_config())[0])
    assert count_parameters(load(write_config(**QLORA))[0]).total == whole.total


def test_rounded_layers_cannot_be_trained_in_full(write_config: Any):
    base, config = load(write_config(**{**QLORA, "lora_modules_to_save": ["q_proj"]}))
    with pytest.raises(ModelError, match="`lora_modules_to_save: q_proj` is held in few bits"):
        check_trainable(base, config.adapter)
    with pytest.raises(ModelError, match=r"rounded weights cannot be trained\n.*adapter: lora"):
        check_trainable(base, without_adapter(config))


def test_dora_beside_8_bits_is_refused_on_a_cpu(write_config: Any):
    way = {**QLORA, "adapter": "lora", "load_in_4bit": False, "load_in_8bit": True, "peft_use_dora": True}
    base, config = load(write_config(**way))
    with pytest.raises(ModelError, match="PEFT loses the scales"):
        check_trainable(base, config.adapter)


def without_adapter(config: Any) -> Any:
    return config.adapter.model_copy(update={"adapter": None})


def test_products_on_a_cpu_keep_the_order_of_weights_that_training_uses(write_config: Any):
    base, _ = load(write_config(**QLORA))
    assert not any(layer.support_avx512bf16_for_cpu for _, layer in find_rounded(base))
