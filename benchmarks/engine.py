"""Siredon as an engine of a training benchmark: its kernels, loss and recomputation on a model of transformers.

A benchmark that builds the same model for several engines calls `fuse_`, `recompute_` and `build_loss`, and runs its
own loop; `measure_ahead` reads the borders of packed rows before a step.  `suite.py` adds such calls to a benchmark of
several engines.  Nothing here is measured; see `benchmarks/results/speed_h100_*.md` for what was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from siredon.config.sections.kernels import WORDS
from siredon.config.sections.memory import MemorySection
from siredon.hardware import probe_hardware
from siredon.model.attend import measure_ahead
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation
from siredon.model.recompute import (
    count_keeping,
    find_layers,
    recompute_activations_,
    recompute_first_,
)
from siredon.ops.linear_cross_entropy import LossOptions, linear_cross_entropy

__all__ = ["build_loss", "fuse_", "measure_ahead", "recompute_"]


def fuse_(base: Any, without: tuple[str, ...] = ()) -> Installed:
    """Lays the kernels over a model that `kernels: auto` would, but for some."""
    wanted: dict[str, bool | None] = {word: False if word in without else None for word in WORDS}
    return install_kernels_(base, wanted, Situation(hardware=probe_hardware()))


def recompute_(base: Any, fraction: float | bool | str) -> str:
    """Has all layers, or a fraction of them, recomputed in the backward pass; `attn` keeps what attention gives."""
    if not fraction:
        return ""
    if fraction != "attn":
        return recompute_activations_(base, MemorySection(gradient_checkpointing=fraction))
    recompute_activations_(base, MemorySection(gradient_checkpointing="auto"))
    num_layers = len(find_layers(base))
    recompute_first_(base, num_layers, num_layers)
    return f"{count_keeping(base)} layers recomputed, but for attention"


def build_loss(base: Any, num_targets: int | None = None) -> Callable[..., torch.Tensor]:
    """Ids, labels and options of the model -> mean loss, by the head and the cross-entropy in pieces.

    Args:
        base: The model.
        num_targets: How many labels of a batch are learned, where it is known: then nothing waits for the device.
    """
    known = LossOptions(num_targets=num_targets)

    def compute(ids: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        hidden = base.model(input_ids=ids, use_cache=False, **options).last_hidden_state
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
        weight = base.get_output_embeddings().weight
        with torch.autocast(ids.device.type, enabled=False):
            total = linear_cross_entropy(
                hidden.to(weight.dtype).flatten(0, 1), weight, targets, options=known
            )
        return total / (targets != -100).sum()

    return compute
