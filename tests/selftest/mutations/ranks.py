"""A rank of the proof table with two bugs planted: losses of ranks are averaged, and all ranks draw alike."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from siredon.data.types import IGNORE
from siredon.selftest.worker import serve
from siredon.train import trainer
from siredon.train.chance import random_numbers_of

plain = trainer.SiredonTrainer.compute_loss


def average_ranks(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
    """Divides by the targets of this rank, so that the mean over ranks is one of means."""
    count = (inputs["labels"] != IGNORE).sum().clamp(min=1) * self.args.world_size
    return plain(self, model, inputs, num_items_in_batch=count)


def draw_alike(device: Any, seed: int, rank: int, *place: int) -> AbstractContextManager[None]:
    """Forgets which rank this is."""
    return random_numbers_of(device, seed, *place)


if __name__ == "__main__":
    trainer.SiredonTrainer.compute_loss = average_ranks
    trainer.random_numbers_of = draw_alike
    serve(Path(sys.argv[1]), sys.argv[2])
