"""What `train --sweep` is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """What `train --sweep` tries.

    Args:
        file: The sweep file.
        search: How trials are chosen, a name on the shelf.
        num_runs: How many trials; a grid has all of its own.
    """

    file: str
    search: str
    num_runs: int
