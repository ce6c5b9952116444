"""Whether a layer runs for the first time or again, in the backward pass: what nobody reads there is not computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

#: What a layer runs in, forward and again; the type of `context_fn` of `torch.utils.checkpoint`.
ContextPair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


class _Thread(threading.local):
    """One per thread: on a GPU the backward pass has a thread of its own."""

    recomputing = False
    checkpointed = False


_thread = _Thread()


def is_recomputing() -> bool:
    """Whether this thread computes a layer again for its backward pass.

    Never inside compiled code, which is traced once and serves both passes.
    """
    return not torch.compiler.is_compiling() and _thread.recomputing


def is_checkpointed() -> bool:
    """Whether this thread computes a layer for the first time that will be computed again: of it, little is kept."""
    return not torch.compiler.is_compiling() and _thread.checkpointed


class checkpointed:  # noqa: N801, a context manager
    """Marks what runs in it as computed for the first time; only for the thread that enters it."""

    def __enter__(self) -> None:
        self._before = _thread.checkpointed
        _thread.checkpointed = True

    def __exit__(self, *_: object) -> None:
        _thread.checkpointed = self._before


class recomputing:  # noqa: N801, a context manager
    """Marks what runs in it as computed again; only for the thread that enters it."""

    def __enter__(self) -> None:
        self._before = _thread.recomputing
        _thread.recomputing = True

    def __exit__(self, *_: object) -> None:
        _thread.recomputing = self._before


class _Within:
    """One context in another."""

    def __init__(self, outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> None:
        self._outer = outer
        self._inner = inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        try:
            self._inner.__enter__()
        except BaseException:
            self._outer.__exit__(None, None, None)
            raise

    def __exit__(self, *error: Any) -> bool | None:
        # What stops a recomputation early is an exception, which goes through both of them.
        try:
            return self._inner.__exit__(*error)
        finally:
            self._outer.__exit__(*error)


def mark_recomputing(contexts: Callable[[], ContextPair] | None = None) -> ContextPair:
    """What a layer runs in, so that its operations know in which pass they are; for `context_fn`.

    Only for checkpointing that is not reentrant, and for layers that are not compiled.

    Args:
        contexts: What it would run in otherwise: that of selective checkpointing; None for nothing.
    """
    if contexts is None:
        return checkpointed(), recomputing()
    forward, again = contexts()
    return _Within(checkpointed(), forward), _Within(recomputing(), again)
