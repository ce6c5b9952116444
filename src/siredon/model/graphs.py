"""Recorded graphs of compiled layers: played again, a layer costs the CPU one launch for each partition of its code.

PyTorch records them (`mode="reduce-overhead"`, or the flag `triton.cudagraphs`), and leaves to who trains what it
cannot know.  What a graph computes lies in memory that the next playing writes over:

- gradients, which are summed over micro-batches, are copied out of it;
- it is told when a forward pass begins, and what the one before gave is not needed any more;
- without training, where answers are written and their cache outlives a pass, layers run as they are.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.hardware import begin_recorded_pass


def prepare_recording_(base: torch.nn.Module) -> None:
    """Has a model whose layers are recorded train as one whose layers are not.

    Args:
        base: The model of transformers, whose layers are compiled and which is not, on its device.
    """
    base.register_forward_pre_hook(_begin)
    base.register_forward_hook(_end, always_call=True)
    for weight in base.parameters():
        if weight.requires_grad:
            weight.register_hook(torch.clone)  # type: ignore[no-untyped-call]


def _begin(module: torch.nn.Module, _: Any) -> None:
    if module.training:
        begin_recorded_pass()
    else:
        torch.compiler.set_stance("force_eager")


def _end(module: torch.nn.Module, *_: Any) -> None:
    if not module.training:
        torch.compiler.set_stance("default")
