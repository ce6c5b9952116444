"""Weights that others stored in few bits: read as their formula says, said to be so, and trained where they can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import build_model
from tests.runs.test_train import metrics_of
from tests.unit.model.test_quantized import IDS, LORA, QLORA, load
from transformers import AutoModelForCausalLM

from siredon import pipeline, release
from siredon.config.load import load_config
from siredon.config.stored_bits import find_lacking
from siredon.errors import ConfigError, ModelError
from siredon.hardware import probe_hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.quantized import check_trainable, find_rounded, widen_
from siredon.serve.load import load_tuned

#: The values of a 4-bit float with 2 bits of exponent and 1 of mantissa, and the bit of the sign.
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4 = torch.cat([FP4, -FP4]).double()


def rewrite(folder: Path, weights: dict[str, torch.Tensor], **settings: Any) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


@pytest.fixture
def fp8_folder(tmp_path: Path, tokenizer: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    return tmp_path / "fp8", write_fp8(tmp_path / "fp8", tokenizer)


def write_fp8(folder: Path, tokenizer: Any) -> dict[str, torch.Tensor]:
    """A Llama in FP8 blocks of 32 x 32, and what each of its weights comes to."""
    build_model(len(tokenizer), tied=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored, truth = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = weight
            continue
        rows, cols = weight.shape
        blocks = weight.reshape(rows // 32, 32, cols // 32, 32).transpose(1, 2)
        scales = blocks.abs().amax((2, 3)) / 448
        eight = (blocks / scales[:, :, None, None]).to(torch.float8_e4m3fn)
        truth[name] = (eight.float() * scales[:, :, None, None]).transpose(1, 2).reshape(rows, cols)
        stored[name] = eight.transpose(1, 2).reshape(rows, cols).contiguous()
        stored[f"{name}_scale_inv"] = scales
    rewrite(folder, stored, quant_method="fp8", weight_block_size=[32, 32], activation_scheme="dynamic")
    return truth


def check_saved(base: Any, folder: Path) -> None:
    """What is written is the model that there is."""
    base.save_pretrained(folder)
    again, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    for (name, weight), (_, other) in zip(base.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize("named", [True, False])
def test_fp8_blocks_are_widened_as_their_formula_says(
    write_config: Any, fp8_folder: Any, capsys: pytest.CaptureFixture[str], named: bool, tmp_path: Path
):
    folder, truth = fp8_folder
    keys = {"model_quantization_config": "FineGrainedFP8Config"} if named else {}
    base, config = load(write_config(base_model=str(folder), **keys))
    assert "stored in FP8, widened to float32 as it is read" in capsys.readouterr().err
    assert all(torch.allclose(base.get_parameter(name), weight, rtol=1e-6) for name, weight in truth.items())
    check_trainable(base, config.adapter)
    assert "quantization_config" not in base.config.to_dict()
    base(input_ids=IDS, labels=IDS).loss.backward()
    assert all(base.get_parameter(name).grad is not None for name in truth)
    check_saved(base, tmp_path / "again")


@pytest.fixture
def mxfp4_folder(tmp_path: Path, tokenizer: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    return tmp_path / "mxfp4", write_mxfp4(tmp_path / "mxfp4", tokenizer)


def write_mxfp4(folder: Path, tokenizer: Any) -> dict[str, torch.Tensor]:
    """A tiny GPT-OSS with experts in MXFP4, and what they come to, as [experts, inputs, outputs]."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        eos_token_id=2,
        pad_token_id=0,
    )
    GptOssForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored, truth = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32))
        exponents = torch.randint(120, 124, (experts, outputs, inputs // 32))
        values = FP4[codes] * 2.0 ** (exponents.double() - 127).unsqueeze(-1)
        truth[name] = values.reshape(experts, outputs, inputs).transpose(1, 2)
        stored[f"{name}_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        stored[f"{name}_scales"] = exponents.to(torch.uint8)
    rewrite(folder, stored, quant_method="mxfp4")
    return truth


def test_mxfp4_experts_are_widened_as_their_formula_says(
    write_config: Any, mxfp4_folder: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    folder, truth = mxfp4_folder
    keys = {
        "model_quantization_config": "Mxfp4Config",
        "model_quantization_config_kwargs": {"dequantize": True},
        "attn_implementation": "eager",
    }
    base, config = load(write_config(base_model=str(folder), **keys))
    assert "stored in MXFP4, widened to float32" in capsys.readouterr().err
    assert len(truth) == 4
    assert all(torch.equal(base.get_parameter(name).double(), weight) for name, weight in truth.items())
    check_trainable(base, config.adapter)
    base(input_ids=IDS, labels=IDS).loss.backward()
    assert all(base.get_parameter(name).grad.abs().sum() > 0 for name in truth)
    check_saved(base, tmp_path / "again")


def test_weights_that_bitsandbytes_stored_are_read_as_they_are(
    write_config: Any, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
):
    base, _ = load(write_config(**QLORA))
    base.save_pretrained(tmp_path / "four")
    tokenizer.save_pretrained(tmp_path / "four")
    capsys.readouterr()
    for keys in (LORA, QLORA):
        again, config = load(write_config(**keys, base_model=str(tmp_path / "four")))
        assert "stored in few bits (bitsandbytes)" in capsys.readouterr().err
        check_trainable(again, config.adapter)
        attach_adapter_(again, config.adapter, seed=0)(input_ids=IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            assert len(list(find_rounded(base))) == len(list(find_rounded(again)))
    with torch.no_grad():
        plain, config = load(write_config(base_model=str(tmp_path / "four")))
        assert torch.equal(plain.eval()(IDS).logits, base.eval()(IDS).logits)
    with pytest.raises(ModelError, match="rounded weights cannot be trained"):
        check_trainable(plain, config.adapter)


def test_what_the_weights_contradict_is_refused_wherever_they_come_from(write_config: Any, fp8_folder: Any):
    path = write_config(base_model=str(fp8_folder[0]))
    base = path.read_text()
    path.write_text(base + "model_quantization_config: Mxfp4Config\n")
    with pytest.raises(ConfigError, match="by fp8: not what `model_quantization_config` says"):
        load_config(str(path))


def pack_gptq(weight: torch.Tensor, group: int = 32) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight, [outputs, inputs], in 4 bits as GPTQ stores it, rounded to the nearest; and what it comes to."""
    outputs, inputs = weight.shape
    groups = weight.reshape(outputs, -1, group)
    scales = (groups.abs().amax(-1) / 7).half()
    codes = (groups / scales.float().unsqueeze(-1)).round().clamp(-8, 7)
    truth = (codes * scales.float().unsqueeze(-1)).reshape(outputs, inputs)
    shifts = 4 * torch.arange(8, dtype=torch.int32)
    columns = (codes + 8).reshape(outputs, inputs).t().to(torch.int32)
    zeros = torch.full((inputs // group, outputs // 8, 8), 7, dtype=torch.int32)
    stored = {
        "qweight": (columns.reshape(-1, 8, outputs) << shifts[None, :, None]).sum(1).to(torch.int32),
        "qzeros": (zeros << shifts).sum(-1).to(torch.int32),
        "scales": scales.t().contiguous(),
        "g_idx": (torch.arange(inputs) // group).to(torch.int32),
    }
    return stored, truth


@pytest.fixture
def gptq_folder(tmp_path: Path, tokenizer: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """A Llama in 4 bits by GPTQ, and what each of its weights comes to."""
    folder = tmp_path / "gptq"
    build_model(len(tokenizer), tied=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights, truth = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            weights[name] = weight
            continue
        layer = name.removesuffix(".weight")
        parts, truth[layer] = pack_gptq(weight)
        weights |= {f"{layer}.{part}": tensor for part, tensor in parts.items()}
    settings = {"bits": 4, "group_size": 32, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
    rewrite(folder, weights, quant_method="gptq", **settings)
    return folder, truth


ON_QUERIES = {
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_target_modules": ["q_proj", "down_proj"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(bool(list(find_lacking("gptq"))), reason="gptqmodel and optimum are not installed")
@pytest.mark.parametrize("named", [True, False])
def test_weights_of_gptq_are_read_as_their_formula_says_and_trained_beside(
    write_config: Any, gptq_folder: Any, named: bool
):
    folder, truth = gptq_folder
    base, config = load(
        write_config(base_model=str(folder), **ON_QUERIES, **({"gptq": True} if named else {}))
    )
    layer = "model.layers.1.mlp.down_proj"
    inputs = torch.randn(5, truth[layer].shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(base.get_submodule(layer)(inputs), inputs @ truth[layer].t(), atol=2e-3)
    check_trainable(base, config.adapter)
    model = attach_adapter_(base, config.adapter, seed=0)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    with pytest.raises(ModelError, match="held by gptq cannot be widened"):
        widen_(base)


@pytest.mark.skipif(not list(find_lacking("gptq")), reason="gptqmodel and optimum are installed")
def test_a_package_that_stored_weights_take_is_named(write_config: Any, gptq_folder: Any):
    with pytest.raises(
        ConfigError, match=r"(?s)SD0713.*takes the package gptqmodel.*pip install gptqmodel optimum"
    ):
        load_config(str(write_config(base_model=str(gptq_folder[0]), **ON_QUERIES)))


#: How llm-compressor says that linear layers are in whole numbers of 4 bits, or in 8-bit floats.
PACKED = {
    "format": "pack-quantized",
    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
}
FLOATS = {
    "format": "float-quantized",
    "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
    "input_activations": {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    },
}


def compress(weight: torch.Tensor, bits: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A weight as compressed-tensors stores it, and what it comes to."""
    if bits == 8:
        scale = weight.abs().amax(1, keepdim=True) / 448
        floats = (weight / scale).to(torch.float8_e4m3fn)
        return {"weight": floats, "weight_scale": scale}, floats.float() * scale
    groups = weight.unflatten(1, (-1, 32))
    scale = groups.abs().amax(-1) / 7.5
    codes = (groups / scale.unsqueeze(-1)).round().clamp(-8, 7)
    words = ((codes.long() + 8).reshape(len(weight), -1, 8) << (4 * torch.arange(8))).sum(-1)
    parts = {
        "weight_packed": words.to(torch.int32),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    return parts, (codes * scale.unsqueeze(-1)).flatten(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    bool(list(find_lacking("compressed-tensors"))), reason="compressed-tensors is not installed"
)
@pytest.mark.parametrize(("group", "bits"), [(PACKED, 4), (FLOATS, 8)])
def test_weights_of_compressed_tensors_are_widened_trained_beside_and_merged_into(
    write_config: Any, tmp_path: Path, tokenizer: Any, group: dict[str, Any], bits: int
):
    folder = tmp_path / "compressed"
    build_model(len(tokenizer), tied=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored, truth = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = weight
            continue
        parts, truth[name] = compress(weight, bits)
        stored |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
    groups = {"group_0": {"targets": ["Linear"], **group}}
    how = {"format": group["format"], "quantization_status": "compressed", "ignore": ["lm_head"]}
    rewrite(folder, stored, quant_method="compressed-tensors", config_groups=groups, **how)
    # 1. Read as the formula says, with nothing left of how it was stored
    keys = {**LORA, "base_model": str(folder), "max_steps": 6, "learning_rate": 5e-2}
    base, config = load(write_config(**keys))
    assert len(truth) == 14
    assert all(torch.allclose(base.get_parameter(name), weight, atol=1e-7) for name, weight in truth.items())
    assert "quantization_config" not in base.config.to_dict()
    # No hook that would move inputs back to the device on which it was read
    assert all(type(module._parameters) is dict for module in base.modules())
    # 2. Trained, asked and merged, in full as well
    pipeline.train(config)
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] - 0.1
    answering = load_tuned(config, probe_hardware()).model.eval()
    release.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged", dtype=torch.float32)
    assert "quantization_config" not in merged.config.to_dict()
    with torch.no_grad():
        assert (merged.eval()(IDS).logits - answering(IDS).logits).abs().max() < 1e-4
    whole, config = load(write_config(base_model=str(folder)))
    check_trainable(whole, config.adapter)
