"""On a GPU: rounded experts as large as those of Qwen 3 30B-A3B: memory, and gradients of the widened model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.hardware import probe_hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.experts import find_packed, report_experts, widen_experts_
from siredon.model.quantized import choose_reading

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
DEVICE = torch.device(probe_hardware().device)
IDS = torch.randint(0, 500, (2, 256), generator=torch.Generator().manual_seed(0))
LORA = {"adapter": "qlora", "lora_r": 8, "lora_alpha": 16, "lora_target_modules": ("q_proj", "v_proj")}
ON_EXPERTS = {"lora_target_parameters": ("experts.gate_up_proj", "experts.down_proj")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of Qwen 3 30B-A3B with a small vocabulary: 1.2 billion weights, 2.5 GB in bfloat16."""
    import transformers as hub

    config = hub.Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = hub.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    path = tmp_path_factory.mktemp("qwen3_moe")
    model.save_pretrained(path)
    return path


def read(folder: Path, way: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    experts, quantization = ExpertSection(quantize_moe_experts=True), QuantizationSection(load_in_4bit=True)
    config = AutoConfig.from_pretrained(folder)
    options = choose_reading(quantization, config, torch.bfloat16, probe_hardware(), experts)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, experts_implementation=way, **options
    )
    report_experts(model, experts, quantization)
    return model


@pytest.mark.parametrize("way", ["eager", "grouped_mm"])
@pytest.mark.parametrize("where", [{}, ON_EXPERTS], ids=["attention", "experts"])
def test_memory_and_gradients_of_rounded_experts(folder: Path, way: str, where: dict[str, Any]):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = torch.cuda.memory_allocated()
    base = read(folder, way)
    held, most = torch.cuda.memory_allocated() - began, torch.cuda.max_memory_allocated() - began
    assert held < 0.75 * 2**30  # 2.3 GiB in bfloat16
    assert most < held + 2.5 * 2**30  # the stacks of one layer while they are read, and what they are made of
    assert len(list(find_packed(base))) == 4
    gradients, losses = [], []
    for is_packed in (True, False):
        if not is_packed:
            base = read(folder, way)
            widen_experts_(base)
            base.to(DEVICE)
            for module in base.modules():  # experts were widened to fp32
                for weight in module.parameters(recurse=False):
                    if weight.ndim == 3:
                        weight.data = weight.data.bfloat16()
        model = attach_adapter_(base, AdapterSection(**LORA, **where), seed=0)
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = (torch.randn(weight.shape, generator=generator) * 0.02).to(weight)
        ids = IDS.to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        gradients.append({name: w.grad for name, w in model.named_parameters() if w.requires_grad})
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-3
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        # the same operations on the same values; sums over tokens in atomic order
        assert (gradient - other).norm() <= 2e-2 * other.norm() + 1e-8, name
