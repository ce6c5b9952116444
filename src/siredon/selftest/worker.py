"""`python -m siredon.selftest.worker FOLDER DEVICE`: one rank of several, which runs the trials that it is told.

A line of stdin is a trial, with the folder that it writes to and the file in which its outcome is awaited.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from siredon.distributed.ranks import leave_ranks, rank
from siredon.model.quiet import quiet_libraries
from siredon.selftest.device import choose_hardware
from siredon.selftest.trial import Outcome, Place, Trial, run_trial


def serve(folder: Path, device: str) -> None:
    """Runs trials until stdin ends."""
    quiet_libraries()
    gc.freeze()
    place = Place(folder, choose_hardware(device))
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        outcome = run_trial(Trial.of_json(request["trial"]), place, Path(request["output"]))
        write_outcome(outcome, Path(f"{request['answer']}-{rank()}"))
    leave_ranks()


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Writes it as a whole: who waits for the file finds all of it."""
    beside = path.with_suffix(".part")
    torch.save(vars(outcome), beside)
    os.replace(beside, path)


def read_outcome(path: Path) -> Outcome:
    """Reads and removes it."""
    outcome = Outcome(**torch.load(path, weights_only=True))
    path.unlink()
    return outcome


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
