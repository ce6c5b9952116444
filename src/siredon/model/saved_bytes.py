"""What a forward pass keeps for the backward pass, counted layer by layer on the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Saved:
    """Bytes that are kept, each piece of memory counted once, where it is first kept; weights are none of them.

    Args:
        layers: By each layer.
        largest: The largest piece of each layer.
        outside: By what is in no layer: embeddings, head, loss.
    """

    layers: tuple[int, ...]
    largest: tuple[int, ...]
    outside: int

    @property
    def total(self) -> int:
        """By all of it."""
        return sum(self.layers) + self.outside


class _Counter:
    """Sees every tensor that autograd saves, and knows which layer runs."""

    def __init__(self, model: torch.nn.Module, num_layers: int) -> None:
        # By the piece of memory itself: the address of a weight that waits in RAM changes.
        self._seen = {_name_memory(weight) for weight in (*model.parameters(), *model.buffers())}
        self.layers = [0] * num_layers
        self.largest = [0] * num_layers
        self.outside = 0
        self._running: list[int] = []

    def watch_(self, layer: torch.nn.Module, index: int) -> list[Any]:
        def enter(module: torch.nn.Module, inputs: Any) -> None:
            self._running.append(index)

        def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self._running.pop()

        return [
            layer.register_forward_pre_hook(enter, prepend=True),
            layer.register_forward_hook(leave, always_call=True),
        ]

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        # Other classes of tensors are weights in few bits, some without memory of their own.
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return tensor
        name = _name_memory(tensor)
        if name in self._seen:
            return tensor
        self._seen.add(name)
        size = tensor.untyped_storage().nbytes()
        if self._running:
            index = self._running[-1]
            self.layers[index] += size
            self.largest[index] = max(self.largest[index], size)
        else:
            self.outside += size
        return tensor


def _name_memory(tensor: torch.Tensor) -> int:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return 0
    name: int = tensor.untyped_storage()._cdata
    return name


def count_saved(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], run: Callable[[], torch.Tensor]
) -> Saved:
    """Runs a forward pass, and counts what it keeps until its result is let go.

    Compiled layers run as they are written: what the compiler would keep is not more.  (`torch.compiler.set_stance`
    would also run flex attention as it is written, which keeps the square of the length.)

    Args:
        model: Its parameters and buffers are not counted.
        layers: By which the bytes are told apart.
        run: The forward pass; gives the loss.
    """
    counter = _Counter(model, len(layers))
    handles = [handle for index, layer in enumerate(layers) for handle in counter.watch_(layer, index)]
    compiled = [(layer, layer._compiled_call_impl) for layer in layers]
    try:
        for layer, _ in compiled:
            layer._compiled_call_impl = None
        with saved_tensors_hooks(counter.pack, lambda tensor: tensor):
            run()
    finally:
        for layer, code in compiled:
            layer._compiled_call_impl = code
        for handle in handles:
            handle.remove()
    return Saved(tuple(counter.layers), tuple(counter.largest), counter.outside)
