"""Stacked experts in few bits: rounded as bitsandbytes rounds, and to training the model of the rounded values."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.model.test_quantized import IDS, load

from siredon.errors import ModelError
from siredon.model import packed as packed_module
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import load_adapter
from siredon.model.experts import find_packed, widen_experts_
from siredon.model.packed import PackedExperts, Packing
from siredon.model.quantized import check_trainable

BOTH = ["experts.gate_up_proj", "experts.down_proj"]
KEYS = {
    "adapter": "qlora",
    "load_in_4bit": True,
    "quantize_moe_experts": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_modules": ["q_proj", "v_proj"],
    "gradient_checkpointing": True,
}
PACKINGS = (Packing("nf4"), Packing("nf4", twice=True), Packing("fp4", twice=True), Packing("int8"))
Families = Callable[[str], Path]


def read(write_config: Any, folder: Path, **keys: Any) -> tuple[Any, Any]:
    more = {"attn_implementation": "eager"} if "gpt_oss" in folder.name else {}
    return load(write_config(**{**KEYS, **more, **keys}, base_model=str(folder)))


def naive(stack: torch.Tensor, packing: Packing) -> torch.Tensor:
    from bitsandbytes import functional

    if packing.kind == "int8":
        return functional.dequantize_blockwise(*functional.quantize_blockwise(stack, blocksize=256))
    options = {"compress_statistics": packing.twice, "quant_type": packing.kind}
    return functional.dequantize_4bit(*functional.quantize_4bit(stack, **options))


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
@pytest.mark.parametrize("shape", [(4, 128, 64), (3, 8, 12), (5, 96, 192)], ids=str)
def test_every_operation_has_the_values_of_bitsandbytes(packing: Packing, shape: tuple[int, int, int]):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed = torch.nn.Parameter(PackedExperts.pack(stack, packing), requires_grad=False)
    expected = naive(stack, packing)
    assert torch.equal(packed.widen(), expected)
    assert torch.equal(packed.transpose(1, 2) + 0, expected.transpose(1, 2))
    inputs = torch.randn(5, shape[2], requires_grad=True)
    for index in (*range(shape[0]), -1):
        product = torch.nn.functional.linear(inputs, packed[torch.tensor(index)])
        plain = torch.nn.functional.linear(inputs, expected[index])
        assert torch.equal(product, plain)
        ones = torch.ones_like(plain)
        assert torch.equal(
            torch.autograd.grad(product, inputs, ones)[0], torch.autograd.grad(plain, inputs, ones)[0]
        )
    fits = stack[0].numel() % (256 if packing.kind == "int8" else 64) == 0
    assert isinstance(packed[0], PackedExperts) == fits


def test_a_stack_that_is_too_large_for_one_call_is_rounded_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_module, "MOST_AT_ONCE", 2 * 128 * 64)
    stack = torch.randn(5, 128, 64)
    packed = PackedExperts.pack(stack, Packing("nf4"))
    assert len(packed.parts) == 3
    assert torch.equal(packed.widen(), naive(stack, Packing("nf4")))
    assert all(torch.equal(packed[index] + 0, packed.widen()[index]) for index in range(5))


def test_it_cannot_be_written_to_or_moved():
    packed = PackedExperts.pack(torch.randn(2, 64, 64), Packing("nf4"))
    packed.copy_(packed.widen())
    with pytest.raises(RuntimeError, match="cannot be written to"):
        packed.copy_(torch.zeros(2, 64, 64))
    with pytest.raises(RuntimeError, match="stay on cpu"):
        packed.to("meta")
    assert type(packed.double()) is torch.Tensor


@pytest.mark.parametrize("keys", [{}, {"adapter": "lora", "load_in_4bit": False, "load_in_8bit": True}])
def test_a_loaded_model_holds_its_experts_in_few_bits(
    write_config: Any, family_folder: Families, keys: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    from safetensors.torch import load_file

    folder = family_folder("gpt_oss")
    base, _ = read(write_config, folder, **keys)
    packing = Packing("int8") if keys else Packing("nf4", twice=True)
    whole = load_file(folder / "model.safetensors")
    found = list(find_packed(base))
    assert len(found) == 4
    for path, name, tensor in found:
        assert torch.equal(tensor.widen(), naive(whole[f"{path}.{name}"], packing))
        assert tensor.num_bytes < tensor.nbytes * (0.29 if keys else 0.18)
    assert "experts: 4 stacks held in" in capsys.readouterr().err


LORA_ON = {"attention": {}, "experts": {"lora_target_parameters": BOTH}}


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "mixtral"])
@pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("where", LORA_ON)
def test_gradients_are_those_of_a_model_of_the_widened_values(
    write_config: Any, family_folder: Families, family: str, way: str, where: str
):
    base, config = read(write_config, family_folder(family), experts_implementation=way, **LORA_ON[where])
    plain = copy.deepcopy(base)
    widen_experts_(plain)
    assert not list(find_packed(plain))
    gradients = []
    for model in (base, plain):
        adapted = attach_adapter_(model, config.adapter, seed=0)
        generator = torch.Generator().manual_seed(1)
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.05
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({name: w.grad for name, w in adapted.named_parameters() if w.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        off = (gradient - gradients[1][name]).norm() / gradients[1][name].norm()
        assert off < 1e-6, name


@pytest.mark.parametrize("way", ["eager", "grouped_mm"])
@pytest.mark.parametrize("recomputes", [True, False])
def test_no_widened_expert_outlives_its_product(
    write_config: Any,
    family_folder: Families,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    recomputes: bool,
):
    base, config = read(write_config, family_folder("qwen3_moe"), experts_implementation=way)
    model = attach_adapter_(base, config.adapter, seed=0)
    if recomputes:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    widened: list[Any] = []
    most: list[int] = []
    widen = PackedExperts.widen

    def record(packed: PackedExperts) -> torch.Tensor:
        most.append(sum(reference() is not None for reference in widened))
        values = widen(packed)
        widened.append(weakref.ref(values.untyped_storage()))
        return values

    monkeypatch.setattr(PackedExperts, "widen", record)
    loss = model(input_ids=IDS, labels=IDS).loss
    assert len(widened) >= 4
    assert not any(reference() for reference in widened)
    loss.backward()
    assert max(most) <= 1
    assert len(widened) >= 8


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_an_adapter_on_rounded_experts_is_read_again_here_and_beside_plain_ones(
    write_config: Any, family_folder: Families, tmp_path: Path, family: str
):
    base, config = read(write_config, family_folder(family), lora_target_parameters=BOTH)
    model = attach_adapter_(base, config.adapter, seed=0)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    before = {f"{path}.{name}": tensor.widen() for path, name, tensor in find_packed(base)}
    losses = []
    for _ in range(5):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    after = [tensor.widen() for _, _, tensor in find_packed(base)]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), after, strict=True))
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model.eval()(IDS).logits
        rounded, _ = read(write_config, family_folder(family))
        plain = copy.deepcopy(rounded)
        widen_experts_(plain)
        assert torch.equal(load_adapter(rounded, tmp_path / "adapter").eval()(IDS).logits, expected)
        assert torch.allclose(
            load_adapter(plain, tmp_path / "adapter").eval()(IDS).logits, expected, atol=1e-5
        )


def test_what_is_left_whole_is_said_and_what_is_not_there_is_refused(
    write_config: Any, family_folder: Families, model_folder: Path, capsys: pytest.CaptureFixture[str]
):
    base, _ = read(write_config, family_folder("qwen3_moe"), quantize_moe_experts=False)
    assert not list(find_packed(base))
    assert "4 stacks, 0.00 GiB, stay in float32: `load_in_4bit` rounds linear layers only" in (
        capsys.readouterr().err
    )
    with pytest.raises(ModelError, match="LlamaForCausalLM has no stacked experts"):
        read(write_config, model_folder)
    base, config = read(write_config, family_folder("qwen3_moe"), lora_modules_to_save=["experts"])
    with pytest.raises(ModelError, match="`lora_modules_to_save: experts` is held in few bits"):
        check_trainable(base, config.adapter)
    skipped = {"llm_int8_skip_modules": ["down_proj", "lm_head"]}
    base, _ = read(write_config, family_folder("qwen3_moe"), bnb_config_kwargs=skipped)
    assert {name for _, name, _ in find_packed(base)} == {"gate_up_proj"}
