"""Prepared data in numbers: lengths, packs, whose words are learned, and what was dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from siredon.data.audit import Counts
from siredon.data.collate import PackDataset
from siredon.data.load import Source
from siredon.data.pack import Indices
from siredon.data.pieces import Piece
from siredon.data.samples import Recipe, make_row, sum_up
from siredon.data.table import JoinedTable

TRAINING, VALIDATION = "training", "validation"
_LENGTH_BARS = 12
_FILL_BARS = 10
#: Rows that are made again to find examples of those that were dropped.
_MOST_SEARCHED = 2_000
_MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Histogram:
    """How often values are how large.

    Args:
        edges: Ends of the bars, one more than there are bars.
        counts: Values in each bar, its upper end among them.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Filling:
    """Packs, and how full they are.

    Args:
        num_packs: How many there are.
        capacity: Tokens that one holds.
        part: The part of all that holds tokens, 0 to 1.
        percent: Packs by how full they are, in per cent.
    """

    num_packs: int
    capacity: int
    part: float
    percent: Histogram


@dataclass(frozen=True)
class Side:
    """What is trained, or what is held out.

    Args:
        name: `training` or `validation`.
        num_samples: Samples, or pairs of them.
        num_tokens: All their tokens.
        longest: Tokens of the longest.
        lengths: Samples by their tokens.
        filling: The packs; None where nothing is packed.
        unit: What is counted, for people: `samples` or `pairs`.
    """

    name: str
    num_samples: int
    num_tokens: int
    longest: int
    lengths: Histogram
    filling: Filling | None
    unit: str = "samples"


@dataclass(frozen=True)
class RoleShare:
    """How much of what a role says is learned.

    Args:
        role: Whose words they are.
        num_tokens: All of them.
        num_targets: Those that are learned.
    """

    role: str
    num_tokens: int
    num_targets: int


@dataclass(frozen=True)
class Dropped:
    """Rows that were dropped for one reason.

    Args:
        reason: The reason.
        num_rows: How many there are.
        examples: Some of them, each with its place.
    """

    reason: str
    num_rows: int
    examples: tuple[str, ...]


def sum_up_side(name: str, dataset: PackDataset, max_tokens: int, capacity: int | None) -> Side:
    """The numbers of one side.

    Args:
        name: `training` or `validation`.
        dataset: Its packs.
        max_tokens: The longest sample that may be.
        capacity: Tokens of a pack; None where nothing is packed.
    """
    lengths = dataset.table.lengths[dataset.packs.indices]
    filling = None
    if capacity is not None:
        held = dataset.lengths
        part = int(held.sum()) / max(1, len(held) * capacity)
        filling = Filling(len(held), capacity, part, _count(-(-100 * held // capacity), _FILL_BARS, 100))
    longest = int(lengths.max(initial=0))
    # A single long limit would put all short rows into the first bar
    bars = _count(lengths, _LENGTH_BARS, min(max_tokens, max(longest, _LENGTH_BARS)))
    unit = dataset.table.unit if isinstance(dataset.table, JoinedTable) else "samples"
    return Side(name, len(lengths), int(lengths.sum()), longest, bars, filling, unit)


def _count(values: Indices, num_bars: int, largest: int) -> Histogram:
    """Bars up to the largest value, of nearly equal width."""
    edges = np.unique(np.linspace(0, largest, num_bars + 1).round().astype(np.int64))
    which = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(which, minlength=len(edges) - 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def share_by_role(pieces: Iterable[Piece]) -> tuple[RoleShare, ...]:
    """Whose words are learned, in the order in which they first speak."""
    tokens: dict[str, int] = {}
    targets: dict[str, int] = {}
    for piece in pieces:
        tokens[piece.role] = tokens.get(piece.role, 0) + len(piece.ids)
        targets[piece.role] = targets.get(piece.role, 0) + len(piece.ids) * piece.learned
    return tuple(RoleShare(role, count, targets[role]) for role, count in tokens.items())


def find_dropped(source: Source, recipe: Recipe, counts: Counts) -> tuple[Dropped, ...]:
    """Why rows of a data set were dropped, with examples.

    Those that were not kept when the data was prepared are looked for in the first rows.
    """
    examples: dict[str, list[str]] = {
        reason: [text for text in counts.examples if reason in re.sub(r"\d+", "N", text)]
        for reason in counts.dropped
    }
    missing = {reason for reason, found in examples.items() if not found}
    if missing:
        for index, row in enumerate(islice(source.rows, _MOST_SEARCHED)):
            made = make_row(row, source.place(index), recipe)
            reason = sum_up(made.reason) if made.reason else ""
            if reason in missing and len(examples[reason]) < _MOST_EXAMPLES:
                num_tokens = 0 if made.whole is None else len(made.whole.input_ids)
                examples[reason].append(f"{source.place(index)}: {num_tokens:,} tokens")
            if all(
                len(examples[reason]) == min(_MOST_EXAMPLES, counts.dropped[reason]) for reason in missing
            ):
                break
    return tuple(
        Dropped(reason, number, tuple(examples[reason][:_MOST_EXAMPLES]))
        for reason, number in counts.dropped.items()
    )
