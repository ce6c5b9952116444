"""Results that are kept although the rest of a layer is recomputed.

What `torch.utils.checkpoint` keeps by a policy stays on the device; `park_results` has it wait in RAM until the
backward pass.  And it looks at every operation of a layer, which takes the host longer than a GPU takes for the work of
one that is recomputed: `keep_attention` looks at attention alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import CheckpointPolicy

if TYPE_CHECKING:
    from siredon.model.offload import Park

#: Decides, operation by operation, as a policy of `torch.utils.checkpoint` does.
Decide = Callable[..., CheckpointPolicy]


class _Waiting:
    """The results of one layer's forward pass, operation by operation, in the order in which they were computed."""

    def __init__(
        self, decide: Decide, park: Park | None = None, device: str = "", smallest_bytes: int = 0
    ) -> None:
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
        if self._park is None or value.device.type != self._device or value.nbytes < self._smallest_bytes:
            return value.detach()
        return _Elsewhere(self._park.pack(value), self._park)

    def _unpack(self, value: Any) -> Any:
        return value.park.unpack(value.inner) if isinstance(value, _Elsewhere) else value


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    inner: Any
    park: Park


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
    decide: Decide, park: Park, device: str, smallest_bytes: int
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


class _Thread(threading.local):
    """One per thread: on a GPU the backward pass has a thread of its own."""

    mode: TorchDispatchMode | None = None


_thread = _Thread()


class _Within:
    """What of a layer runs inside of `seen_by_keeper` goes through a mode; nothing else does."""

    def __init__(self, mode: TorchDispatchMode) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        self._before = _thread.mode
        _thread.mode = self._mode

    def __exit__(self, *_: object) -> None:
        _thread.mode = self._before


def keep_attention(decide: Decide) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What a layer runs in, forward and again, that keeps what its attention gives; for `context_fn`.

    Args:
        decide: Which operations are kept, of those that run inside of `seen_by_keeper`.
    """
    waiting = _Waiting(decide)
    return _Within(_Forward(waiting)), _Within(_Again(waiting))


def seen_by_keeper() -> AbstractContextManager[Any]:
    """For the attention of a layer: where it is kept, the operations that run inside are kept or taken."""
    mode = None if torch.compiler.is_compiling() else _thread.mode
    return nullcontext() if mode is None else mode


class _Scale(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, decide: Decide) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._decide = decide
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        if self._decide(None, func, *args, **options) is CheckpointPolicy.MUST_SAVE:
            leaves = tree_leaves(result)
            self.total += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def count_attention(decide: Decide, run: Callable[[], Any]) -> int:
    """Bytes of what `keep_attention` would keep of a forward pass that runs without it.

    Args:
        decide: As there.
        run: The forward pass.
    """
    scale = _Scale(decide)
    with _Within(scale):
        run()
    return scale.total
