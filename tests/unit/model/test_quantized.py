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
    "torchao-int4": {**LORA, "load_in_torchao": "int4"},
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
        ("torchao-int4", torch.bfloat16),
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


def naive_groups(weight: torch.Tensor) -> torch.Tensor:
    """Each group of 32 weights in a row divided by the scale that holds its extremes from -8 to 7, and rounded."""
    groups = weight.double().reshape(weight.shape[0], -1, 32)
    scales = torch.maximum(groups.amax(-1, keepdim=True), -groups.amin(-1, keepdim=True)) / 7.5
    return ((groups / scales).round().clamp(-8, 7) * scales).reshape(weight.shape)


@pytest.mark.parametrize("way", ["nf4", "8bit", "torchao-int8", "torchao-int4"])
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
        if way == "torchao-int4":
            # The extreme of a group lies half-way between two values, so it is compared apart.
            found, naive = widened.get_submodule(name).weight.double(), naive_groups(weight)
            extreme = weight.abs() >= 0.9999 * weight.reshape(-1, 32).abs().amax(1).repeat_interleave(
                32
            ).view_as(weight)
            scales = (weight.abs().double() / 7.5)[extreme]
            assert ((found - naive)[extreme].abs() < 1.001 * scales).all()
            naive[extreme] = found[extreme]
        else:
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


def test_recomputed_layers_in_8_bits_keep_no_inputs_and_give_the_numbers_of_bitsandbytes(write_config: Any):
    from bitsandbytes.nn import Linear8bitLt
    from torch.multiprocessing.reductions import StorageWeakRef

    kept, found = {}, {}
    for name in ("ours", "theirs"):
        base, config = load(write_config(**WAYS["8bit"]), torch.bfloat16)
        for _, layer in find_rounded(base):
            if name == "theirs":
                layer.__class__ = Linear8bitLt
        inputs: list[StorageWeakRef] = []
        for _, layer in find_rounded(base):
            layer.register_forward_pre_hook(
                lambda layer, given, inputs=inputs: inputs.append(StorageWeakRef(given[0].untyped_storage()))
            )
        model = attach_adapter_(base, config.adapter, seed=0)
        base.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS).loss
        assert len(inputs) == 14
        kept[name] = sum(not each.expired() for each in inputs)
        loss.backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found[name] = [loss.detach(), *grads]
    # The second says what it is about: with bitsandbytes' own, the inputs of every layer stay.
    assert kept == {"ours": 0, "theirs": 14}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found.values(), strict=True))


def test_4_bits_of_torchao_are_its_own_rounding_two_to_a_byte():
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    from siredon.model.packed_int4 import PackedInt4

    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Linear(96, 48, dtype=dtype)
        packed = PackedInt4.pack(layer.weight.data)
        assert packed.qdata.nbytes == layer.weight.numel() // 2
        quantize_(layer, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
        assert torch.equal(packed.dequantize(), layer.weight.dequantize())
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    inputs = torch.ones(3, 96, dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(torch.compile(layer, backend="aot_eager")(inputs), layer(inputs))


@pytest.mark.parametrize("way", ["torchao-int8", "torchao-fp8", "torchao-int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_widened_weight_and_keep_no_copy_of_it(
    write_config: Any, way: str, dtype: torch.dtype
):
    base, _ = load(write_config(**WAYS[way]), dtype)
    _, ours = next(find_rounded(base))
    plain = torch.nn.Linear(ours.in_features, ours.out_features, dtype=dtype)
    plain.weight = torch.nn.Parameter(ours.weight.dequantize(), requires_grad=False)
    ours.bias = plain.bias
    results = []
    for layer in (ours, plain):
        saved: list[torch.Tensor] = []
        inputs = torch.linspace(-1, 1, 10 * 64).reshape(2, 5, 64).to(dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t) or t, lambda t: t
        ):
            product = layer(inputs)
        product.square().sum().backward()
        assert bool(saved) == (layer is plain)
        results.append((product, inputs.grad, layer.bias.grad))
        layer.bias.grad = None
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*results, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(inputs.float()).dtype == torch.bfloat16


def test_layers_that_hold_no_whole_groups_are_refused(write_config: Any, tmp_path: Path, tokenizer: Any):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "odd")
    tokenizer.save_pretrained(tmp_path / "odd")
    with pytest.raises(
        ModelError, match=r"the 80 inputs of model.layers.0.mlp.down_proj are no whole number"
    ):
        load(write_config(base_model=str(tmp_path / "odd"), **WAYS["torchao-int4"]))
