"""On a GPU: which attention keeps documents apart, in the number formats of a run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from tests.unit.train.steps import build_steps_trainer
from tests.unit.train.test_isolation import build_kind

from siredon.hardware import probe_hardware
from siredon.train.isolation import find_leak

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


def leak_of(kind: str, attention: str, num_packs: int, *, flatten: bool, dtype: torch.dtype) -> str | None:
    # Flash and flex attention take heads of 16 and more.
    model: Any = build_kind(kind, attention, head_dim=32).to(dtype)
    return find_leak(build_steps_trainer(model, flatten=flatten, use_cpu=False), num_packs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "mixtral"])
def test_documents_are_kept_apart(kind: str, attention: str, dtype: torch.dtype):
    for flatten in (False, True):
        assert leak_of(kind, attention, 2, flatten=flatten, dtype=dtype) is None


@pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash-attn is not installed")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "mixtral"])
def test_flash_attention_keeps_documents_apart_in_one_row_and_not_in_several(kind: str):
    assert leak_of(kind, "flash_attention_2", 2, flatten=True, dtype=torch.bfloat16) is None
    assert leak_of(kind, "flash_attention_2", 2, flatten=False, dtype=torch.bfloat16) is not None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_kind_of_model_that_leaks_is_seen(attention: str):
    for kind in ("opt", "lfm2"):
        assert leak_of(kind, attention, 2, flatten=False, dtype=torch.bfloat16) is not None
