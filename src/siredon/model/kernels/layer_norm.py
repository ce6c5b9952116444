"""`layer_norm`: torch.nn.LayerNorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from siredon.model.blocks import Blocks
from siredon.model.kernel import Changes, Kernel, Outcome, Situation
from siredon.ops.layer_norm import layer_norm


def _build(norm: torch.nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        return layer_norm(hidden, norm.weight, norm.bias, norm.eps)

    return forward


def install(blocks: Blocks, situation: Situation, changes: Changes) -> Outcome:
    """Lays it over every norm of that class that normalizes the last dimension."""
    outcome = Outcome()
    for module in blocks.base.modules():
        if type(module) is torch.nn.LayerNorm and len(module.normalized_shape) == 1:
            changes.set_forward(module, _build(module))
            outcome.num_places += 1
    outcome.what = f"{outcome.num_places} norms"
    if not outcome.num_places:
        outcome.leave_out("this model has none")
    return outcome


KERNEL = Kernel(title="LayerNorm", gain="not measured on a whole model", install=install)
