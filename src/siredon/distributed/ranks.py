"""Which process of a run this is, from the environment that torchrun sets."""

from __future__ import annotations

import os
from typing import Any


def num_ranks() -> int:
    """Processes in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process in this run."""
    return int(os.environ.get("RANK", "0"))


def largest_of_ranks(value: int, device: Any) -> int:
    """The largest value that any rank has; to be asked by all.  With one rank nothing is sent.

    Args:
        value: What this rank has.
        device: Where tensors lie that ranks send to each other.
    """
    if num_ranks() == 1:
        return value
    import torch
    import torch.distributed as dist

    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def leave_ranks() -> None:
    """Ends the process group, if there is one: a rank that just exits can take the others down with it."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
