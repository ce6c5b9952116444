"""What `inference` is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siredon.serve.sampling import Sampling


@dataclass(frozen=True)
class Prompts:
    """What `inference` is asked.

    Args:
        texts: The prompts; empty for a prompt loop.
        base: Ask the base model, without its adapter.
        compare: Ask both, side by side.
        sampling: How tokens are chosen.
    """

    texts: Sequence[str]
    base: bool
    compare: bool
    sampling: Sampling
