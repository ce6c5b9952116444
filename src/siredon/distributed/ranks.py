"""Which process of a run this is, from the environment that torchrun sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def num_ranks() -> int:
    """Processes in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def main_rank_first() -> Iterator[None]:
    """Lets rank 0 do the work and the others find it done.  Needs the process group if there are several ranks."""
    if num_ranks() == 1:
        yield
        return
    import torch.distributed as dist

    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0:
        dist.barrier()
