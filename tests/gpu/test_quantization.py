"""On a GPU: weights are rounded there, one at a time; trained beside, asked and merged as on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.runs.test_train import config_of, metrics_of
from tests.unit.model.test_quantized import IDS, LORA, QLORA, WAYS, bytes_of, load
from tests.unit.model.test_stored_bits import fp8_folder, mxfp4_folder

from siredon import pipeline, release
from siredon.hardware import probe_hardware, read_peak_bytes
from siredon.model.adapt import attach_adapter_
from siredon.model.quantized import find_rounded, widen_

__all__ = ["fp8_folder", "mxfp4_folder"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


def frozen_bytes(model: Any) -> dict[str, bytes]:
    """As `bytes_of`, from the GPU."""
    return bytes_of(model.cpu())


@pytest.mark.parametrize("way", WAYS)
def test_training_moves_the_adapter_alone(write_config: Any, way: str):
    device = probe_hardware().device
    path = write_config(**WAYS[way])
    before = frozen_bytes(load(path, torch.bfloat16)[0])
    base, config = load(path, torch.bfloat16)
    assert {weight.device.type for weight in base.parameters()} == {device}
    model = attach_adapter_(base, config.adapter, seed=0).to(device)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.5)
    losses = []
    for _ in range(6):
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=IDS.to(device), labels=IDS.to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): part
        for name, part in frozen_bytes(model).items()
    }
    # Before there is an adapter, only rounded weights are frozen.
    assert before.items() <= after.items()
    assert before


def test_the_model_in_16_bits_is_never_whole_on_the_gpu(write_config: Any, tmp_path: Path, tokenizer: Any):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
    }
    folder = tmp_path / "large"
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).to(torch.bfloat16)
    whole = sum(2 * weight.numel() for weight in model.parameters())
    model.save_pretrained(folder, max_shard_size="100MB")
    tokenizer.save_pretrained(folder)
    hardware = probe_hardware()
    torch.accelerator.reset_peak_memory_stats()
    held = torch.accelerator.memory_allocated()
    base, _ = load(write_config(base_model=str(folder), **QLORA), torch.bfloat16)
    peak = read_peak_bytes(hardware) - held
    assert len(list(find_rounded(base))) == 12 * 7
    assert peak < 0.6 * whole


@pytest.mark.parametrize("way", ["nf4-twice", "8bit", "torchao-int8", "torchao-fp8", "torchao-int4"])
def test_a_widened_model_gives_the_logits_of_the_rounded_one(write_config: Any, way: str):
    base, _ = load(write_config(**WAYS[way]))
    device = probe_hardware().device
    with torch.no_grad():
        rounded = base.eval()(IDS.to(device)).logits.cpu()
        difference = (widen_(base)(IDS).logits - rounded).abs().max().item()
    assert difference < (0.5 if way == "8bit" else 5e-3)


@pytest.mark.parametrize("keys", [QLORA, {**LORA, "load_in_8bit": True}, {**LORA, "load_in_torchao": "fp8"}])
def test_a_whole_run_is_validated_and_merged(write_config: Any, tmp_path: Path, keys: dict[str, Any]):
    from transformers import AutoModelForCausalLM

    from siredon.serve.load import load_tuned

    run = {"max_steps": 10, "learning_rate": 5e-2, "val_set_size": 2, "eval_steps": 5, "bf16": True}
    config = config_of(write_config(**keys, **run, gradient_checkpointing=True))
    pipeline.train(config)
    losses = [row["eval_loss"] for row in metrics_of(tmp_path / "out") if "eval_loss" in row]
    assert losses[-1] < losses[0]
    tuned = load_tuned(config, probe_hardware()).model
    with torch.no_grad():
        answering = tuned.eval()(IDS.to(probe_hardware().device)).logits.float().cpu()
        release.merge_lora(config)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged", dtype=torch.float32)
        difference = (merged.eval()(IDS).logits - answering).abs().max().item()
    assert difference < 1.0


def test_fp8_and_mxfp4_are_widened_here_too(write_config: Any, fp8_folder: Any, mxfp4_folder: Any):
    for folder, truth in (fp8_folder, mxfp4_folder):
        base, _ = load(write_config(base_model=str(folder), attn_implementation="eager"), torch.bfloat16)
        for name, weight in truth.items():
            found = base.get_parameter(name).float().cpu()
            assert torch.allclose(found, weight.to(torch.bfloat16).float(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("formats", [("fp8", "fp8"), ("fp8", None), ("int4", None)])
def test_what_was_trained_for_rounding_is_what_torchao_answers_with(formats: tuple[str, str | None]):
    """Up to the 16 bits of results; where inputs are rounded too, one that lies at a border then takes another step."""
    from torchao.quantization import quantize_

    from siredon.config.sections.quantization import QatOptions
    from siredon.model.rounding import build_layer_rounding, round_in_training_

    device = probe_hardware().device
    options = QatOptions(weight_dtype=formats[0], activation_dtype=formats[1])  # type: ignore[arg-type]
    model = build_model(512, tied=False, dtype=torch.bfloat16).to(device)
    round_in_training_(model, options)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS.to(device), labels=IDS.to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    answering = build_model(512, tied=False, dtype=torch.bfloat16).to(device)
    answering.load_state_dict(model.state_dict())
    with torch.no_grad():
        whole = answering.eval()(IDS.to(device)).logits.float()
        head = answering.get_output_embeddings()
        quantize_(
            answering,
            build_layer_rounding(options),
            lambda module, name: isinstance(module, torch.nn.Linear) and module is not head,
        )
        felt = model.eval()(IDS.to(device)).logits.float()
        off = (answering(IDS.to(device)).logits.float() - felt).norm() / felt.norm()
        assert off < (0.7 if formats[1] else 0.2) * (whole - felt).norm() / felt.norm()


def test_recomputed_layers_in_8_bits_keep_no_inputs_here_either(write_config: Any):
    """By the bytes of the forward pass: inputs of all layers in 16 bits are most of what bitsandbytes keeps."""
    from bitsandbytes.nn import Linear8bitLt

    device = probe_hardware().device
    ids = torch.randint(8, 500, (1, 512), generator=torch.Generator().manual_seed(0)).to(device)
    held, losses = {}, {}
    for name in ("ours", "theirs"):
        base, config = load(write_config(**WAYS["8bit"]), torch.bfloat16)
        for _, layer in find_rounded(base):
            if name == "theirs":
                layer.__class__ = Linear8bitLt
        model = attach_adapter_(base, config.adapter, seed=0).to(device)
        base.gradient_checkpointing_enable({"use_reentrant": False})
        inputs = []
        for _, layer in find_rounded(base):
            layer.register_forward_pre_hook(
                lambda layer, given, inputs=inputs: inputs.append(given[0].nbytes)
            )
        with torch.autocast(device, torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
            inputs.clear()
            before = torch.accelerator.memory_allocated()
            loss = model(input_ids=ids, labels=ids).loss
        held[name] = torch.accelerator.memory_allocated() - before
        loss.backward()
        losses[name] = loss.item()
    # The first half was before the backward pass; the seven products of a layer have four inputs, kept in 16 bits.
    kept = sum(inputs[: len(inputs) // 2]) * 4 // 7
    assert held["theirs"] - held["ours"] > 0.4 * kept
    assert losses["ours"] == losses["theirs"]
