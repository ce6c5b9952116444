"""The random numbers of forward and backward passes where several ranks share a step: dropout, and noise.

`Trainer` seeds all ranks alike, so that they would all drop the same places.  What is drawn between the passes, such
as what an optimizer rounds by, must still be the same on all ranks, and goes on from the common state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_of(device: torch.device, *place: int) -> Iterator[None]:
    """Lets PyTorch draw the numbers of a place in the run, and go on after it as if none had been drawn.

    They depend on the place alone: a run that goes on from a checkpoint draws them again, and has nothing to keep.

    Args:
        device: What is computed on.
        place: Seed, rank, optimizer step and micro-batch; none negative.
    """
    low, high = np.random.SeedSequence(place).generate_state(2)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        torch.manual_seed(int(high) << 32 | int(low))
        yield
