"""What a kernel on the shelf `kernels/` is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from siredon.hardware import Hardware
from siredon.model.blocks import Blocks


@dataclass(frozen=True)
class Situation:
    """What a kernel is chosen by.

    Args:
        hardware: What the run is on.
        attention: `attn_implementation` of the config.
        compiles: Layers are compiled.
        plain_lora: Parts of a layer whose LoRA is left as it is: some of `qkv`, `o` and `mlp`.
    """

    hardware: Hardware
    attention: str = "sdpa"
    compiles: bool = False
    plain_lora: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What became of a kernel on a model.

    Args:
        num_places: How many modules it computes; 0 for none.
        what: What those are, for people.
        reasons: Why it computes none, or not all: reason -> how many modules.
    """

    num_places: int = 0
    what: str = ""
    reasons: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        """Counts a module that is computed as before."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Changes:
    """Changes of instances, each with its undo."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def add(self, undo: Callable[[], None]) -> None:
        """Notes how a change is undone."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Puts everything back, last change first."""
        while self._undo:
            self._undo.pop()()

    def set_forward(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        """Has an instance computed by another function; its class stays as it is."""
        module.forward = forward
        self.add(lambda: vars(module).pop("forward", None))

    def extend(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        """Makes an instance one of a subclass with another `forward`.

        The subclass has the name of its parent, by which wrappers of layers find it.  transformers sees to it that a
        subclass of a layer is recomputed as its parent is.
        """
        parent = type(module)
        module.__class__ = type(
            parent.__name__, (parent,), {"forward": forward, "__module__": parent.__module__}
        )

        def go_back() -> None:
            module.__class__ = parent

        self.add(go_back)


@dataclass(frozen=True)
class Kernel:
    """A fused kernel that a model can be computed by.

    Args:
        title: What it computes, for people.
        gain: What was measured of it, for people.
        install: Lays it over the blocks of a model; what became of it.
        refuse: Why it would not help here, or cannot run; empty to go on.
        gives_way: Where layers are compiled, it is left to the compiler unless it is asked for.
    """

    title: str
    gain: str
    install: Callable[[Blocks, Situation, Changes], Outcome]
    refuse: Callable[[Situation], str] = lambda situation: ""
    gives_way: bool = True
