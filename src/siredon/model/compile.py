"""Compiling, layer by layer: one piece of code serves all layers of a kind, and names of weights stay as they are."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from siredon.config.sections.compile import CompileSection
from siredon.errors import ModelError
from siredon.hardware import COMPILE_MODES, Hardware, has_triton
from siredon.model.graphs import prepare_recording_
from siredon.model.recompute import find_layers
from siredon.registry import suggest


def compiles_layers(section: CompileSection, hardware: Hardware) -> bool:
    """Whether `compile_layers_` compiles anything: `auto` does on a GPU with Triton."""
    if section.torch_compile == "auto":
        return hardware.is_gpu and has_triton()
    return bool(section.torch_compile)


def compile_layers_(model: torch.nn.Module, section: CompileSection, hardware: Hardware) -> str:
    """Has every layer compiled when it first runs, or the whole model if it has no layers that are known.

    Args:
        model: The module that is called.
        section: How it is compiled.
        hardware: `auto` compiles on a GPU.

    Returns:
        What is compiled, for people; empty for nothing.

    Raises:
        ModelError: No such compiler, or one that cannot run here; graphs of a model whose layers are not known.
    """
    if not section.torch_compile:
        return ""
    if not compiles_layers(section, hardware):
        return f"not compiled: `torch_compile: auto` needs a GPU with Triton, this is {hardware.describe()}"
    backend = section.torch_compile_backend or "inductor"
    _check_compiler(backend, hardware)
    settings: dict[str, Any] = {"backend": backend}
    if section.torch_compile_options:
        settings["options"] = dict(section.torch_compile_options)
    elif section.torch_compile_mode:
        settings["mode"] = COMPILE_MODES.get(section.torch_compile_mode, section.torch_compile_mode)
    layers = find_layers(model)
    records = hardware.is_gpu and section.records_graphs
    if records and not layers:
        raise ModelError(
            "graphs are recorded layer by layer, and the layers of this model are not known",
            "Remove `torch_compile_mode: reduce-overhead` and `triton.cudagraphs`.",
        )
    for layer in layers or [model]:
        layer.compile(**settings)
    if records:
        prepare_recording_(model)
    what = f"{len(layers)} layers" if layers else "the whole model"
    return f"{what} compiled by {backend}" + (", and recorded as graphs" if records else "")


def _check_compiler(backend: str, hardware: Hardware) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ModelError(
            f"`torch_compile_backend: {backend}` is no compiler that PyTorch knows",
            f"{suggest(backend, known)}Known: {', '.join(known)}.",
        )
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if backend == "inductor" and not hardware.is_gpu and not any(map(shutil.which, compilers)):
        raise ModelError(
            "`torch_compile: true` needs a C++ compiler on a CPU, and found none",
            "Install g++, or set `torch_compile: false`.",
        )
