"""Memory traded for time, once the model is whole: what is recomputed, what waits elsewhere, what is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from siredon.config.schema import Config
from siredon.config.sections.memory import MemorySection
from siredon.distributed.ranks import num_ranks, rank
from siredon.errors import ModelError
from siredon.hardware import Hardware, open_side_stream
from siredon.log import note, warn
from siredon.model.compile import compile_layers_, compiles_layers
from siredon.model.kept_results import park_results
from siredon.model.offload import SMALLEST_BYTES, DiskPark, RamPark, Saver, park_activations_, park_layers_
from siredon.model.recompute import Contexts, recompute_activations_


def trade_memory_(model: Any, base: Any, config: Config, hardware: Hardware) -> None:
    """Applies all of it, and says what is in effect.

    Args:
        model: The module that is called, an adapter's wrapper included.
        base: The model of transformers inside it.
        config: The whole config.
        hardware: What the run is on.

    Raises:
        ModelError: The model cannot do what the config asks, or not here.
    """
    lines = [*_apply_(model, base, config, hardware)]
    shown = "; ".join(line for line in lines if line)
    if shown:
        note(f"memory: {shown}")


def _apply_(model: Any, base: Any, config: Config, hardware: Hardware) -> Iterator[str]:
    section = config.memory
    saver = _build_saver(model, section, config.checkpoint.output_folder, hardware)
    by_layer = section.activation_offloading == "hidden_states"
    saving = saver.open if saver and by_layer else None
    contexts = _park_results(section, hardware)
    yield recompute_activations_(
        base,
        section,
        saving,
        contexts or create_selective_checkpoint_contexts,
        compiles=compiles_layers(config.compile, hardware),
    )
    if contexts is not None:
        yield "what is kept of them waits in pinned RAM"
    if saver is not None:
        if not by_layer:
            park_activations_(model, saver)
        what = "inputs of recomputed layers wait" if by_layer else "what is kept waits"
        where = "on disk" if section.activation_offloading == "disk" else "in pinned RAM"
        yield f"{what} {where}"
    if section.layer_offloading:
        yield _offload_layers_(model, base, hardware)
    yield compile_layers_(base, config.compile, hardware)


def offload_activations_(model: torch.nn.Module, hardware: Hardware) -> Callable[[], None]:
    """Parks what a GPU keeps for the backward pass in pinned RAM, as `activation_offloading: true` does.

    Args:
        model: The module that is called.
        hardware: A GPU.

    Returns:
        Takes it back.
    """
    return park_activations_(
        model, Saver(RamPark(open_side_stream(hardware), pinned=True), model, hardware.device)
    )


def _build_saver(
    model: torch.nn.Module, section: MemorySection, output: Path, hardware: Hardware
) -> Saver | None:
    """Parks activations as the config asks; None for not at all."""
    kind = section.activation_offloading
    if not kind:
        return None
    if kind == "disk":
        return Saver(DiskPark(output / f"activations-rank-{rank()}"), model, hardware.device)
    if not hardware.is_gpu:
        warn(
            "`activation_offloading` has no effect: this run computes on the CPU, and activations are in RAM already. "
            "`activation_offloading: disk` would write them to files"
        )
        return None
    side = None if kind == "legacy" else open_side_stream(hardware)
    return Saver(RamPark(side, pinned=True), model, hardware.device)


def _park_results(section: MemorySection, hardware: Hardware) -> Contexts | None:
    """Where the results that `selective_checkpointing` keeps wait, if not where they were computed."""
    keeping = section.kept_results
    if keeping is None or not keeping.offload:
        return None
    if not hardware.is_gpu:
        warn(
            "`selective_checkpointing.offload` has no effect: this run computes on the CPU, and what it keeps is in "
            "RAM already"
        )
        return None
    return partial(
        park_results,
        park=RamPark(open_side_stream(hardware), pinned=True),
        device=hardware.device,
        smallest_bytes=SMALLEST_BYTES,
    )


def _offload_layers_(model: torch.nn.Module, base: torch.nn.Module, hardware: Hardware) -> str:
    if num_ranks() > 1:
        raise ModelError(
            "`layer_offloading` works with one process: several would each look for the weights that are in RAM",
            "Train with one process, or set `layer_offloading: false`.",
        )
    if not hardware.is_gpu:
        warn("`layer_offloading` has no effect: this run computes on the CPU, and weights are in RAM already")
        return ""
    return park_layers_(model, base, torch.device(hardware.device), open_side_stream(hardware))
