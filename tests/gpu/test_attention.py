"""On a GPU: attention of xformers and of flash attention is that of eager."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.model.test_attention import INPUTS, LEFT
from tests.unit.train.steps import build_steps_trainer
from tests.unit.train.test_isolation import build_kind

from siredon.config.attentions import NEEDS
from siredon.config.sections.attention import AttentionSection
from siredon.hardware import probe_hardware
from siredon.model.attention import register_attention
from siredon.train.isolation import find_leak

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
needs_xformers = pytest.mark.skipif(find_spec("xformers") is None, reason="xformers is not installed")
FLASH = [name for name in NEEDS if name.startswith("flash") and not NEEDS[name].is_missing]
needs_flash = pytest.mark.skipif(not FLASH, reason="no flash attention is installed")
DEVICE = torch.device(probe_hardware().device)
#: The kernels of flash attention that xformers takes in 16 bits are not those that it takes in fp32.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


def build(kind: str, attention: str, dtype: torch.dtype) -> Any:
    if attention == "xformers":
        attention = register_attention(AttentionSection(attn_implementation="xformers"))
    return build_kind(kind, attention, head_dim=32).to(DEVICE, dtype)


def differ(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got.float() - wanted).norm() / wanted.norm().clamp(min=1e-9)).item()


@needs_xformers
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_attention_of_xformers_is_that_of_eager(kind: str, dtype: torch.dtype):
    torch.manual_seed(1)
    ids = torch.randint(3, 128, (2, 10), device=DEVICE)
    for name, inputs in INPUTS.items():
        given = {key: value.to(DEVICE) for key, value in inputs.items()}
        seen = given.get("attention_mask", torch.ones_like(ids)).bool()
        found = []
        for attention, kept in (("eager", torch.float32), ("xformers", dtype)):
            model = build(kind, attention, kept)
            logits = model(input_ids=ids, use_cache=False, **given).logits[seen]
            logits.float().square().sum().backward()
            layer = model.model.layers[0].self_attn
            weights = (layer.q_proj, layer.k_proj, layer.v_proj)
            found.append([logits.detach(), *(part.weight.grad for part in weights)])
        for wanted, got in zip(*found, strict=True):
            # Through two layers of weights this large, gradients in bfloat16 are off by some percent for eager too.
            allowed = TOLERANCE[dtype] * (1 if got is found[1][0] or dtype is torch.float32 else 5)
            assert differ(got, wanted) <= allowed, name


@needs_xformers
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_xformers_keeps_documents_apart_in_one_row_and_in_several(kind: str, dtype: torch.dtype):
    for flatten in (False, True):
        model = build(kind, "xformers", dtype)
        assert find_leak(build_steps_trainer(model, flatten=flatten, use_cpu=False), 2) is None


@needs_xformers
def test_an_answer_by_xformers_is_that_of_eager():
    ids, mask = torch.arange(3, 23, device=DEVICE).view(2, 10), LEFT.to(DEVICE)
    answers = [
        build("mistral", attention, torch.float32).generate(
            ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None
        )
        for attention in ("eager", "xformers")
    ]
    assert torch.equal(*answers)


@needs_xformers
@pytest.mark.parametrize(
    "keys", [{}, {"gradient_checkpointing": True, "selective_checkpointing": True}], ids=str
)
def test_a_run_trains_by_xformers(
    write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any]
):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    settings = {
        **LORA,
        **keys,
        "attn_implementation": "xformers",
        "sample_packing": True,
        "micro_batch_size": 2,
    }
    pipeline.train(config_of(write_config(**settings, bf16="auto", max_steps=12, learning_rate=2e-2)))
    assert "attention: xformers" in capsys.readouterr().err
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3


@needs_flash
@pytest.mark.parametrize("attention", FLASH)
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_flash_attention_is_eager_and_keeps_documents_apart(kind: str, attention: str):
    torch.manual_seed(1)
    ids = torch.randint(3, 128, (2, 10), device=DEVICE)
    seen = LEFT.to(DEVICE).bool()
    wanted, got = (
        build_wide(kind, name)(input_ids=ids, attention_mask=LEFT.to(DEVICE), use_cache=False).logits[seen]
        for name in ("eager", attention)
    )
    assert differ(got, wanted.float()) <= TOLERANCE[torch.bfloat16]
    for flatten in (False, True):
        trainer = build_steps_trainer(build_wide(kind, attention), flatten=flatten, use_cpu=False)
        assert find_leak(trainer, 2) is None


def build_wide(kind: str, attention: str) -> Any:
    return build_kind(kind, attention, head_dim=64).to(DEVICE, torch.bfloat16)


@needs_flash
@pytest.mark.parametrize("attention", FLASH)
def test_a_run_trains_by_flash_attention(
    write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], attention: str
):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    settings = {**LORA, "attn_implementation": attention, "sample_packing": True, "micro_batch_size": 2}
    pipeline.train(config_of(write_config(**settings, bf16="auto", max_steps=12, learning_rate=2e-2)))
    assert f"attention: {attention}" in capsys.readouterr().err
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
