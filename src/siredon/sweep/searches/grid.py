"""`--sweep-search grid`: every combination, in the order of the file; the last key varies fastest."""

from __future__ import annotations

from siredon.sweep.search import Search
from siredon.sweep.space import MAX_TRIALS, Space


def build_grid(space: Space, num_runs: int, seed: int) -> Search:
    """All trials of the grid."""
    del num_runs, seed
    return Search([space.grid_trial(index) for index in range(min(space.size, MAX_TRIALS))])


SEARCH = build_grid
