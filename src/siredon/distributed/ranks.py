"""Which process of a run this is, from the environment that torchrun sets."""

from __future__ import annotations

import os


def num_ranks() -> int:
    """Processes in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process in this run."""
    return int(os.environ.get("RANK", "0"))


def leave_ranks() -> None:
    """Ends the process group, if there is one: a rank that just exits can take the others down with it."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
