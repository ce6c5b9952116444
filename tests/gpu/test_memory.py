"""On a GPU: every way to save memory has the gradients of the plain model, and a lower peak."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.model.test_memory import KEEPING, NUM_LAYERS, REENTRANT, backward, build
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from siredon.config.sections.compile import CompileSection
from siredon.config.sections.memory import MemorySection
from siredon.hardware import open_side_stream, probe_hardware
from siredon.model.compile import compile_layers_
from siredon.model.kept_results import park_results
from siredon.model.offload import RamPark, Saver, park_activations_, park_layers_
from siredon.model.recompute import recompute_activations_

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
DEVICE = torch.device(probe_hardware().device)


def change_(
    model: Any,
    base: Any,
    *,
    parks: bool = False,
    legacy: bool = False,
    layers: bool = False,
    compiles: bool = False,
    smallest_bytes: int = 1,
    **settings: Any,
) -> None:
    section = MemorySection(**settings)
    side = None if legacy else open_side_stream(probe_hardware())
    saver = Saver(RamPark(side, pinned=True), model, DEVICE.type, smallest_bytes)
    by_layer = section.activation_offloading == "hidden_states"
    contexts = create_selective_checkpoint_contexts
    if section.kept_results and section.kept_results.offload:
        place = RamPark(side, pinned=True)
        contexts = partial(park_results, park=place, device=DEVICE.type, smallest_bytes=smallest_bytes)
    recompute_activations_(base, section, saver.open if by_layer else None, contexts)
    if parks:
        park_activations_(model, saver)
    if layers:
        park_layers_(model, base, DEVICE, open_side_stream(probe_hardware()))
    if compiles:
        compile_layers_(base, CompileSection(torch_compile=True), probe_hardware())
    model.to(DEVICE)


ON = {"gradient_checkpointing": True}
ELSEWHERE = {"selective_checkpointing": {"offload": True}}
#: In fp32 attention with grouped heads is no single operation on a GPU.
HEADS = {"num_key_value_heads": 4}
VARIANTS: dict[str, Callable[..., None]] = {
    "recomputed": partial(change_, **ON),
    "reentrant": partial(change_, **ON, **REENTRANT),
    "half": partial(change_, gradient_checkpointing=0.5),
    "attention-kept": partial(change_, **ON, **KEEPING),
    "attention-elsewhere": partial(change_, **ON, **ELSEWHERE),
    "inputs-attention-elsewhere": partial(change_, **ON, **ELSEWHERE, activation_offloading="hidden_states"),
    "ram": partial(change_, parks=True),
    "ram-recomputed": partial(change_, parks=True, **ON),
    "ram-legacy": partial(change_, parks=True, legacy=True, **ON),
    "inputs": partial(change_, **ON, activation_offloading="hidden_states"),
    "inputs-attention-kept": partial(change_, **ON, **KEEPING, activation_offloading="hidden_states"),
    "layers": partial(change_, layers=True),
    "layers-recomputed": partial(change_, layers=True, **ON),
    "layers-ram": partial(change_, layers=True, parks=True, **ON),
    "compiled": partial(change_, compiles=True),
    "compiled-recomputed": partial(change_, compiles=True, **ON),
    "compiled-ram": partial(change_, compiles=True, parks=True, **ON),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_a_model_that_keeps_everything(variant: str, adapter: bool):
    if variant.startswith("layers") and not adapter:
        pytest.skip("every weight is trained: there is none to move")
    # Compiled code draws other random numbers: without dropout.
    changes = {"dropout": 0.0} if variant.startswith("compiled") else {}
    plain, _ = build(adapter, **HEADS, **changes)
    wanted = backward(plain.to(DEVICE), device=DEVICE)
    torch.compiler.reset()
    model, base = build(adapter, **HEADS, **changes)
    VARIANTS[variant](model, base)
    found = backward(model, device=DEVICE)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


#: Rising memory of one pass: each keeps less than the one after it.
ORDER = [
    {**ON, "parks": True},
    {**ON, "activation_offloading": "hidden_states"},
    {**ON},
    {**ON, **ELSEWHERE},
    {**ON, **KEEPING},
    {"gradient_checkpointing": 0.5},
    {},
]


def measure_peak(device: torch.device, keys: dict[str, Any]) -> int:
    """Bytes that a forward and backward pass of 2,048 tokens add at most."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2 * NUM_LAYERS}
    model, base = build(True, dropout=0.0, **sizes)
    change_(model, base, smallest_bytes=2**18, **keys)
    ids = torch.randint(0, 128, (1, 2048), device=device)
    for _ in range(2):
        model.zero_grad()
        gc.collect()
        torch.accelerator.synchronize()
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum()
        loss.backward()
        del loss
    return torch.accelerator.max_memory_allocated() - before


def test_the_peak_falls_with_what_is_kept():
    peaks = [measure_peak(DEVICE, keys) for keys in ORDER]
    assert peaks == sorted(peaks), [f"{peak / 2**20:.0f} MiB" for peak in peaks]
    assert peaks[2] < 0.6 * peaks[-1]
    # What is kept leaves the GPU, but for the last few copies under way.
    assert peaks[3] - peaks[2] < 0.5 * (peaks[4] - peaks[2])


def test_frozen_layers_that_wait_in_ram_leave_room():
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    held = []
    for layers in (False, True):
        gc.collect()
        torch.accelerator.empty_cache()
        before = torch.accelerator.memory_allocated()
        model, base = build(True, dropout=0.0, **sizes)
        change_(model, base, layers=layers, **ON)
        torch.accelerator.reset_peak_memory_stats()
        model(input_ids=torch.arange(64, device=DEVICE)[None], use_cache=False).logits.sum().backward()
        held.append(torch.accelerator.max_memory_allocated() - before)
        del model, base
    assert held[1] < 0.5 * held[0], [f"{peak / 2**20:.0f} MiB" for peak in held]


@pytest.mark.parametrize("keys", [{"activation_offloading": True}, {"layer_offloading": True}, {}], ids=str)
def test_a_whole_run_says_what_it_does_and_lowers_the_loss(
    write_config: Any, tmp_path: Path, capsys: Any, keys: dict[str, Any]
):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    settings = {**LORA, **ON, **keys, "attn_implementation": "flex_attention", "sample_packing": True}
    pipeline.train(config_of(write_config(**settings, bf16="auto", max_steps=12, learning_rate=2e-2)))
    said = capsys.readouterr().err
    assert "attention: flex_attention" in said
    assert "memory: every layer recomputed" in said
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
