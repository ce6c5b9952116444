"""How many rows each of several sources gives, and in which order they take turns.

Source: the method of A. Sainte-Lague, "La representation proportionnelle et la methode des moindres carres",
Annales scientifiques de l'Ecole normale superieure 27, 1910.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siredon.data.pack import Indices


@dataclass(frozen=True)
class Share:
    """A source among others.

    Args:
        weight: Rows that it gives, relative to the others.
        num_rows: Rows after which it ends; None for one that begins again.
    """

    weight: float
    num_rows: int | None = None


def draw_sources(shares: Sequence[Share], given: Sequence[int], count: int) -> Indices:
    """Which source gives each of the next rows.

    The next row is that of the source which is furthest behind its share, so what was given so far says all: at
    no time is a source a whole turn ahead of its weight, and there is no random state to be kept.  When one ends,
    the others go on in their own proportions.

    Args:
        shares: The sources.
        given: Rows that each has given so far.
        count: Rows that are asked for.

    Returns:
        Numbers of sources, shape [count], or fewer when all have ended.
    """
    given = list(given)
    live = [index for index in range(len(shares)) if _is_live(shares[index], given[index])]
    if len(live) == 1 and shares[live[0]].num_rows is None:
        return np.full(count, live[0], dtype=np.int64)
    drawn: list[int] = []
    while live and len(drawn) < count:
        index = min(live, key=lambda source: (given[source] + 0.5) / shares[source].weight)
        drawn.append(index)
        given[index] += 1
        if not _is_live(shares[index], given[index]):
            live.remove(index)
    return np.asarray(drawn, dtype=np.int64)


def _is_live(share: Share, given: int) -> bool:
    return share.num_rows is None or given < share.num_rows
