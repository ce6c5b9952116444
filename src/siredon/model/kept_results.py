"""Results that are kept although the rest of a layer is recomputed, and wait in RAM until the backward pass.

What `torch.utils.checkpoint` keeps by a policy stays on the device; here it is handed to a park.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import CheckpointPolicy

from siredon.model.offload import SMALLEST_BYTES, Park

#: Decides, operation by operation, as a policy of `torch.utils.checkpoint` does.
Decide = Callable[..., CheckpointPolicy]


class _Waiting:
    """The results of one layer's forward pass, operation by operation, in the order in which they were computed."""

    def __init__(self, decide: Decide, park: Park, device: str, smallest_bytes: int) -> None:
        self._decide = decide
        self._park = park
        self._device = device
        self._smallest_bytes = smallest_bytes
        self._results: dict[Any, deque[Any]] = {}

    def keeps(self, operation: Any, args: Any, options: dict[str, Any]) -> bool:
        return self._decide(None, operation, *args, **options) is CheckpointPolicy.MUST_SAVE

    def put(self, operation: Any, result: Any) -> None:
        self._results.setdefault(operation, deque()).append(tree_map(self._pack, result))

    def take(self, operation: Any) -> Any:
        """The result whose turn it is; it is not kept any longer."""
        return tree_map(self._unpack, self._results[operation].popleft())

    def _pack(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.device.type != self._device or value.nbytes < self._smallest_bytes:
            return value.detach()
        return _Elsewhere(self._park.pack(value))

    def _unpack(self, value: Any) -> Any:
        return self._park.unpack(value.inner) if isinstance(value, _Elsewhere) else value


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    inner: Any


class _Forward(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, waiting: _Waiting) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waiting = waiting

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        if self._waiting.keeps(func, args, options):
            self._waiting.put(func, result)
        return result


class _Again(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, waiting: _Waiting) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waiting = waiting

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if self._waiting.keeps(func, args, options):
            return self._waiting.take(func)
        return func(*args, **options)


def park_results(
    decide: Decide, park: Park, device: str, smallest_bytes: int = SMALLEST_BYTES
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What a layer runs in, forward and again; for `context_fn` of `torch.utils.checkpoint`.

    The second gives what the first has kept, in the same order, each once: a layer is recomputed once.

    Args:
        decide: Which operations are kept.
        park: Where their results wait.
        device: Only tensors of this kind of device wait there.
        smallest_bytes: Smaller ones stay.
    """
    waiting = _Waiting(decide, park, device, smallest_bytes)
    return _Forward(waiting), _Again(waiting)
