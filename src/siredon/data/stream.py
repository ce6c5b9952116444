"""Packs that are made while training, of sources that are too long to be prepared ahead.

    sources -> take turns by weight -> a window of rows -> samples -> shuffled -> packed or joined -> packs

A window is the buffer: so many rows are read, shuffled and packed together, and are gone before the next ones are
read, so memory does not grow with the stream.

What a window holds depends on the seed, its number, and how far each source was read before it, and on nothing else.
So a few numbers are the whole state: where the window begins, the tokens that were left over from the one before,
and how many of its packs were used.  Resuming makes that one window anew, and passes over the packs that were used.
A buffer that exchanged row by row would have to be saved itself, or be made anew from the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siredon.config.sections.packing import PackingSection
from siredon.data.audit import Counts
from siredon.data.collate import PackDataset
from siredon.data.feed import Feed
from siredon.data.join import EMPTY, close_window, cut_windows, join_samples
from siredon.data.pack import Indices, Packs, build_packs, keep_single
from siredon.data.table import JoinedTable
from siredon.data.turns import draw_sources
from siredon.data.types import Pack, Sample


@dataclass(frozen=True)
class StreamOptions:
    """What is made of rows.

    Args:
        seed: Seed of the shuffle.
        window_rows: Rows that are shuffled and packed together.
        max_tokens: Tokens per sequence.
        packing: Whether and how rows are packed.
        joins: Texts are joined to full sequences instead.
        isolates: Rows in a pack do not see each other.
        shuffles: Rows of a window are shuffled.
    """

    seed: int
    window_rows: int
    max_tokens: int
    packing: PackingSection
    joins: bool = False
    isolates: bool = True
    shuffles: bool = True


@dataclass(frozen=True)
class Place:
    """The beginning of a window.

    Args:
        window: Its number.
        first: Packs before it.
        given: Rows that each source gave before it.
        carry: Tokens that were left over.
    """

    window: int
    first: int
    given: tuple[int, ...]
    carry: Sample = EMPTY


class Stream(torch.utils.data.IterableDataset[Pack]):
    """The packs of a stream, from where it was left.

    Args:
        feeds: The sources.
        options: What is made of their rows.
    """

    def __init__(self, feeds: Sequence[Feed], options: StreamOptions) -> None:
        self.feeds = tuple(feeds)
        self.options = options
        #: Whether all sources have ended.
        self.has_ended = False
        self._start = Place(0, 0, (0,) * len(self.feeds))
        self._skip = 0
        self._places: deque[Place] = deque([self._start])
        # No row comes twice into one window only because the sources are shorter than it
        self._window_rows = min(options.window_rows, sum(len(feed) for feed in self.feeds))

    def __iter__(self) -> Iterator[Pack]:
        place, skip = self._start, self._skip
        self._places = deque([place])
        while True:
            packs, place = self._make_window(place)
            if packs is None:
                # It has ended, and stays so
                self._start, self._skip = place, 0
                self.has_ended = True
                return
            for number in range(skip, len(packs)):
                yield packs[number]
            skip = 0
            del packs
            self._places.append(place)

    def forget(self, num_packs: int) -> None:
        """Lets go of what is needed only for states before `num_packs` packs."""
        while len(self._places) > 1 and self._places[1].first <= num_packs:
            self._places.popleft()

    def state_at(self, num_packs: int) -> dict[str, Any]:
        """Where the stream is when so many packs were used, counted from its beginning, as JSON values.

        Not where it has been read to: a loader reads ahead.  Places before the last `forget` are not known any more.
        """
        place = max((place for place in self._places if place.first <= num_packs), key=lambda one: one.window)
        return {
            "window": place.window,
            "first_pack": place.first,
            "used": num_packs - place.first,
            "rows_given": list(place.given),
            "carry": [place.carry.input_ids.tolist(), place.carry.labels.tolist()],
        }

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        ids, labels = (np.asarray(part, dtype=np.int32) for part in state["carry"])
        self._start = Place(
            int(state["window"]), int(state["first_pack"]), tuple(state["rows_given"]), Sample(ids, labels)
        )
        assert len(self._start.given) == len(self.feeds)
        self._skip = int(state["used"])
        self._places = deque([self._start])

    @property
    def counts(self) -> tuple[Counts, ...]:
        """What became of the rows that were read by this process, by source."""
        return tuple(feed.counts for feed in self.feeds if feed.counts is not None)

    def _make_window(self, place: Place) -> tuple[Sequence[Pack] | None, Place]:
        """The packs of a window, None after the last, and where the next one begins."""
        draws = draw_sources([feed.share for feed in self.feeds], place.given, self._window_rows)
        if not len(draws):
            rest = [(sample,) for sample in close_window(place.carry)]
            end = Place(place.window + 1, place.first + len(rest), place.given)
            return (rest or None), end
        numbers = np.bincount(draws, minlength=len(self.feeds)).tolist()
        table = JoinedTable(
            tuple(
                feed.make(start, count)
                for feed, start, count in zip(self.feeds, place.given, numbers, strict=True)
                if count
            )
        )
        random = np.random.default_rng([self.options.seed, place.window])
        order = random.permutation(len(table)) if self.options.shuffles else _take_turns(table, draws)
        packs, carry = self._pack(table, order, place.carry, random)
        given = tuple(start + count for start, count in zip(place.given, numbers, strict=True))
        return packs, Place(place.window + 1, place.first + len(packs), given, carry)

    def _pack(
        self, table: JoinedTable, order: Indices, carry: Sample, random: np.random.Generator
    ) -> tuple[Sequence[Pack], Sample]:
        options = self.options
        if options.joins:
            samples = (table[index] for index in order.tolist())
            windows, carry = cut_windows(carry, samples, options.max_tokens)
            return [(window,) for window in windows], carry
        if not options.packing.sample_packing:
            packs = keep_single(len(order))
        else:
            packs = build_packs(table.lengths[order], options.max_tokens, options.packing)
        # The packer leaves those of many short rows at the front
        turns = random.permutation(len(packs)) if options.shuffles else np.arange(len(packs))
        chosen = Packs(order[packs.indices], packs.offsets)
        return _Window(PackDataset(table, chosen), turns, options.isolates), carry


@dataclass(frozen=True, eq=False)
class _Window(Sequence[Pack]):
    """The packs of a window, put together as they are asked for."""

    packs: PackDataset
    turns: Indices
    isolates: bool

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: Any) -> Any:
        pack = self.packs[int(self.turns[index])]
        return pack if self.isolates else (join_samples(pack),)


def _take_turns(table: JoinedTable, draws: Indices) -> Indices:
    """Samples in the order in which their rows were drawn; a row that made none or several shifts its neighbours."""
    moments = []
    for source, part in zip(np.unique(draws), table.tables, strict=True):
        drawn = np.flatnonzero(draws == source)
        moments.append(drawn[np.arange(len(part)) * len(drawn) // max(len(part), 1)])
    return np.argsort(np.concatenate(moments), kind="stable")
