"""Memory traded for time: the same gradients, less kept, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.memory import MemorySection
from siredon.hardware import Hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.offload import DiskPark, RamPark, Saver, park_activations_, park_layers_
from siredon.model.recompute import recompute_activations_

CPU = Hardware("cpu", "test", 1, False, False, 1)
NUM_LAYERS = 4
Gradients = dict[str, torch.Tensor]
Change = Callable[[Any, Any, Path], object]


def build(adapter: bool, **settings: Any) -> tuple[Any, Any]:
    """A Llama in fp32, and what is trained of it: all, or LoRA with dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlamaConfig(
        num_hidden_layers=NUM_LAYERS, num_key_value_heads=2, initializer_range=0.2, **sizes, **settings
    )
    base = LlamaForCausalLM(config).train()
    if not adapter:
        return base, base
    section = AdapterSection(
        adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True, lora_dropout=0.2
    )
    model = attach_adapter_(base, section, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model, base


def backward(model: Any, *, num_passes: int = 2) -> Gradients:
    """Gradients of two passes, of two lengths, with the same random numbers each time."""
    torch.manual_seed(7)
    for length in (24, 17)[:num_passes]:
        ids = torch.randint(0, 128, (2, length))
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def recompute(model: Any, base: Any, folder: Path, **settings: Any) -> str:
    return recompute_activations_(
        base, MemorySection(gradient_checkpointing=True).model_copy(update=settings)
    )


def park(
    model: Any, base: Any, folder: Path, *, disk: bool = False, inputs: bool = False, **settings: Any
) -> None:
    place: Any = DiskPark(folder / "parked") if disk else RamPark(None, pinned=False)
    saver = Saver(place, model, "cpu", smallest_bytes=1)
    if settings or inputs:
        section = MemorySection(gradient_checkpointing=True, **settings)
        recompute_activations_(base, section, saver.open if inputs else None)
    if not inputs:
        park_activations_(model, saver)


def park_layers(model: Any, base: Any, folder: Path, *, recomputes: bool = False) -> None:
    if recomputes:
        recompute(model, base, folder)
    park_layers_(model, base, torch.device("cpu"), None)


REENTRANT = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
KEEPING = {"selective_checkpointing": True}
VARIANTS: dict[str, Change] = {
    "recomputed": recompute,
    "reentrant": partial(recompute, **REENTRANT),
    "half": partial(recompute, gradient_checkpointing=0.5),
    "every-third": partial(recompute, gradient_checkpointing_every_n_layers=3),
    "attention-kept": partial(recompute, **KEEPING),
    "ram": park,
    "ram-recomputed": partial(park, gradient_checkpointing_kwargs={"use_reentrant": False}),
    "ram-reentrant": partial(park, **REENTRANT),
    "disk": partial(park, disk=True, gradient_checkpointing_kwargs={"use_reentrant": False}),
    "inputs": partial(park, inputs=True),
    "inputs-reentrant": partial(park, inputs=True, **REENTRANT),
    "inputs-attention-kept": partial(park, inputs=True, **KEEPING),
    "layers": park_layers,
    "layers-recomputed": partial(park_layers, recomputes=True),
}


@pytest.fixture(scope="module")
def plain() -> dict[bool, Gradients]:
    """Gradients with everything kept."""
    return {adapter: backward(build(adapter)[0]) for adapter in (False, True)}


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_a_model_that_keeps_everything(
    variant: str, adapter: bool, plain: dict[bool, Gradients], tmp_path: Path
):
    if variant.startswith("layers") and not adapter:
        pytest.skip("every weight is trained: there is none to move")
    model, base = build(adapter)
    VARIANTS[variant](model, base, tmp_path)
    found = backward(model)
    wanted = plain[adapter]
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max(), name
