"""`--sweep-search random`: some trials of the grid; with a range, values drawn at random."""

from __future__ import annotations

import math
import random

from siredon.config.layers import Setting
from siredon.sweep.search import Search
from siredon.sweep.space import Range, Space
from siredon.sweep.trial import Trial


def build_random(space: Space, num_runs: int, seed: int) -> Search:
    """Trials drawn with the seed; the first ones are the same for every number of runs.

    Without a range no trial is drawn twice, and they come in the order of the grid, with its numbers.
    """
    generator = random.Random(seed)
    if space.ranges:
        return Search([_draw_trial(space, number, generator) for number in range(1, num_runs + 1)])
    drawn: set[int] = set()
    while len(drawn) < min(num_runs, space.size):
        drawn.add(generator.randrange(space.size))
    return Search([space.grid_trial(index) for index in sorted(drawn)])


def _draw_trial(space: Space, number: int, generator: random.Random) -> Trial:
    settings: list[Setting] = []
    for axis in space.axes:
        if isinstance(axis, Range):
            settings.append(_draw_value(axis, generator))
        else:
            settings += axis.options[generator.randrange(len(axis.options))]
    return Trial(number, tuple(settings))


def _draw_value(axis: Range, generator: random.Random) -> Setting:
    if axis.num_steps is not None:
        return axis.set_step(generator.randint(0, axis.num_steps))
    # Half a unit more on both sides, so that the ends are as likely as what lies between
    more = 0.5 if axis.is_whole else 0.0
    low, high = axis.low - more, axis.high + more
    if axis.log:
        return axis.set_value(math.exp(generator.uniform(math.log(low), math.log(high))))
    return axis.set_value(generator.uniform(low, high))


SEARCH = build_random
