"""Which process of a run this is, from the environment that torchrun sets."""

from __future__ import annotations

import os


def num_ranks() -> int:
    """Processes in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))
