"""What training will see: prepared data summed up, and some of its rows token by token.

Rows are made again from their source, by what makes all samples, and looked up in what was prepared: a row that is
shown as trained is in a pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.streaming import StreamingSection
from siredon.data.audit import Counts
from siredon.data.collate import PackDataset
from siredon.data.load import Source, load_rows
from siredon.data.overview import (
    TRAINING,
    VALIDATION,
    Dropped,
    RoleShare,
    Side,
    find_dropped,
    share_by_role,
    sum_up_side,
)
from siredon.data.pairs import SIDES
from siredon.data.pieces import Piece, PieceReader
from siredon.data.prepare import Preparation, Prepared, build_recipe, prepare_data
from siredon.data.roles import Voices, find_voices, name_roles
from siredon.data.rows import Indices, Rows
from siredon.data.samples import Recipe, make_row
from siredon.data.table import Digests, JoinedTable, build_table
from siredon.data.types import Row, Sample
from siredon.errors import DataError

#: Of a text that is split into more samples, the others are not shown.
MOST_WINDOWS = 8


@dataclass(frozen=True)
class Choice:
    """Which rows are looked at.

    Args:
        num_rows: How many, from all data sets in turn.
        source: Only of this data set, counted from 1.
        row: Only this row of a data set, counted from 1.
        seed: Rows are drawn by this seed; None takes the first ones.
    """

    num_rows: int = 3
    source: int | None = None
    row: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class SeenSample:
    """A sample.

    Args:
        pieces: Its tokens.
        num_tokens: How many they are.
        num_targets: How many of them are learned.
        use: What becomes of it: `training, pack 3`.
        name: Which side of a pair it is; empty where it is of none.
    """

    pieces: tuple[Piece, ...]
    num_tokens: int
    num_targets: int
    use: str
    name: str = ""


@dataclass(frozen=True)
class SeenRow:
    """A row.

    Args:
        source: The number of its data set, from 1.
        number: Which row of the data set it is, from 1.
        place: Where it stands.
        num_tokens: Its tokens, before it was brought to length.
        is_cut: Whether it was truncated.
        reason: Why it was dropped; empty if it was not.
        num_samples: How many samples were made of it; none of a dropped row.
        samples: The first of them; of a dropped row what would have been one.
    """

    source: int
    number: int
    place: str
    num_tokens: int
    is_cut: bool
    reason: str
    num_samples: int
    samples: tuple[SeenSample, ...]


@dataclass(frozen=True)
class SeenSource:
    """A data set.

    Args:
        number: Its number, from 1.
        name: Its path.
        side: `training` or `validation`.
        num_rows: Its rows.
        counts: What became of them; None where that could not be prepared.
        dropped: Why rows were dropped.
    """

    number: int
    name: str
    side: str
    num_rows: int
    counts: Counts | None
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Inspection:
    """Everything that is shown.

    Args:
        sources: The data sets.
        sides: What is trained, and what is held out.
        roles: Whose words are learned, in the rows that are looked at.
        rows: The rows that are looked at.
        sequence_len: The longest sample, in tokens.
        lines: What preparing the data reports.
        warnings: What it warns of.
        problem: Why training could not start; empty if it could.
    """

    sources: tuple[SeenSource, ...]
    sides: tuple[Side, ...]
    roles: tuple[RoleShare, ...]
    rows: tuple[SeenRow, ...]
    sequence_len: int
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str = ""


def inspect_data(preparation: Preparation, packing: PackingSection, choice: Choice) -> Inspection:
    """Prepares the data as training does, and looks at it.

    Where preparing fails, the rows are shown all the same, with the problem.

    Args:
        preparation: What stays the same for every data set.
        packing: Whether rows are packed.
        choice: Which rows are looked at.

    Raises:
        DataError: A source that cannot be read, or a row that is not there.
    """
    prepared, problem = None, ""
    try:
        prepared = prepare_data(preparation, packing)
    except DataError as error:
        problem = str(error)
    opened = [
        _Opened(number, *found, None if prepared is None else prepared.counts[number - 1])
        for number, found in enumerate(_open(preparation), 1)
    ]
    look = _Look(PieceReader(preparation.tokenizer), _Uses(prepared, packing))
    rows = tuple(
        look.at(source, index, row)
        for source, indices in _choose(opened, choice)
        for index, row in zip(indices.tolist(), source.read(indices), strict=True)
    )
    used = (piece for row in rows if not row.reason for part in row.samples for piece in part.pieces)
    return Inspection(
        tuple(source.describe() for source in opened),
        () if prepared is None else tuple(_sum_up_sides(prepared, preparation.data, packing)),
        share_by_role(used),
        rows,
        preparation.data.sequence_len,
        () if prepared is None else prepared.lines,
        () if prepared is None else prepared.warnings,
        problem,
    )


def check_prepared_ahead(streaming: StreamingSection) -> None:
    """What is streamed is not there to be looked at.

    Raises:
        DataError: Rows are read while training.
    """
    if streaming.streams:
        raise DataError(
            "inspect: the rows are streamed, and prepared while training",
            "Name a few of them in a file of their own, as `datasets`, and inspect that.",
        )


def _open(preparation: Preparation) -> Iterator[tuple[str, Source, Recipe]]:
    """Every data set: its side, its rows, and what makes samples of them."""
    data = preparation.data
    for side, entries, max_tokens in (
        (TRAINING, data.datasets, data.sequence_len),
        (VALIDATION, data.test_datasets, data.eval_tokens),
    ):
        for entry in entries:
            source = load_rows(entry, preparation.seed)
            yield side, source, build_recipe(entry, preparation, max_tokens)


def _sum_up_sides(prepared: Prepared, data: DataSection, packing: PackingSection) -> Iterator[Side]:
    assert isinstance(prepared.train, PackDataset)  # What is streamed is not prepared
    assert isinstance(prepared.train.table, JoinedTable)
    group = prepared.train.table.group
    longest = group * data.sequence_len
    yield sum_up_side(TRAINING, prepared.train, longest, longest if packing.sample_packing else None)
    if prepared.validation is not None:
        longest = group * data.eval_tokens
        capacity = longest if packing.pack_eval else None
        yield sum_up_side(VALIDATION, prepared.validation, longest, capacity)


@dataclass(frozen=True)
class _Opened:
    """A data set, and what became of its rows."""

    number: int
    side: str
    source: Source
    recipe: Recipe
    counts: Counts | None

    def describe(self) -> SeenSource:
        dropped = find_dropped(self.source, self.recipe, self.counts) if self.counts else ()
        return SeenSource(
            self.number, self.source.name, self.side, len(self.source.rows), self.counts, dropped
        )

    def read(self, indices: Indices) -> Iterator[Row]:
        """Rows, by numbers that ascend."""
        rows = self.source.rows
        return rows.read(indices) if isinstance(rows, Rows) else (rows[index] for index in indices.tolist())


def _choose(opened: Sequence[_Opened], choice: Choice) -> list[tuple[_Opened, Indices]]:
    """Which rows of which data sets."""
    if choice.source is not None and not 1 <= choice.source <= len(opened):
        names = ", ".join(f"{source.number} {source.source.name}" for source in opened)
        raise DataError(f"there is no data set {choice.source}", f"Choose one of: {names}.")
    chosen = list(opened) if choice.source is None else [opened[choice.source - 1]]
    if choice.row is not None:
        num_rows = len(chosen[0].source.rows)
        if not 1 <= choice.row <= num_rows:
            raise DataError(
                f"{chosen[0].source.name}: there is no row {choice.row:,}", f"There are {num_rows:,} rows."
            )
        return [(chosen[0], np.array([choice.row - 1]))]
    sizes = _share_out(choice.num_rows, [len(source.source.rows) for source in chosen])
    return [
        (source, _draw(len(source.source.rows), size, choice.seed))
        for source, size in zip(chosen, sizes, strict=True)
        if size
    ]


def _share_out(wanted: int, sizes: Sequence[int]) -> list[int]:
    """Rows for each data set, as evenly as they have them; the first ones get what does not divide."""
    given = [0] * len(sizes)
    while wanted and (open_ones := [index for index, size in enumerate(sizes) if given[index] < size]):
        each = max(1, wanted // len(open_ones))
        for index in open_ones:
            more = min(each, sizes[index] - given[index], wanted)
            given[index] += more
            wanted -= more
    return given


def _draw(num_rows: int, size: int, seed: int | None) -> Indices:
    if seed is None:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(num_rows, size, replace=False))


class _Uses:
    """Where samples are used, by what tells equal ones."""

    def __init__(self, prepared: Prepared | None, packing: PackingSection) -> None:
        self.sides: list[tuple[str, bool, Digests, Indices]] = []
        if prepared is not None:
            assert isinstance(prepared.train, PackDataset)
            self._add(TRAINING, prepared.train, packing.sample_packing)
            if prepared.validation is not None:
                self._add(VALIDATION, prepared.validation, packing.pack_eval)
        self.is_known = prepared is not None

    def _add(self, side: str, dataset: PackDataset, is_packed: bool) -> None:
        packs = dataset.packs
        assert isinstance(dataset.table, JoinedTable)
        digests = dataset.table.digests[packs.indices]
        order = np.argsort(digests[:, 0], kind="stable")
        pack_of = np.repeat(np.arange(len(packs)), np.diff(packs.offsets))
        self.sides.append((side, is_packed, digests[order], pack_of[order]))

    def find(self, samples: Sequence[Sample]) -> str:
        """What becomes of a sample, or of a pair, for people; empty where nothing could be prepared."""
        (digest,) = JoinedTable((build_table(samples),), len(samples)).digests
        found = []
        for side, is_packed, digests, pack_of in self.sides:
            first, end = (np.searchsorted(digests[:, 0], digest[0], side) for side in ("left", "right"))
            packs = pack_of[first:end][digests[first:end, 1] == digest[1]]
            if len(packs):
                pack = f", pack {packs[0] + 1:,}" if is_packed else ""
                equal = f" ({len(packs):,} equal samples)" if len(packs) > 1 else ""
                found.append(f"{side}{pack}{equal}")
        return " and ".join(found) or ("not used" if self.is_known else "")


@dataclass(frozen=True)
class _Look:
    """Looks at rows."""

    reader: PieceReader
    uses: _Uses

    def at(self, source: _Opened, index: int, row: Row) -> SeenRow:
        """One row, made into samples again."""
        place = source.source.place(index)
        made = make_row(row, place, source.recipe)
        voices = find_voices(source.recipe, row, made.text) if made.whole is not None else None
        whole = () if made.whole is None else (_cut_whole(made.whole, source.recipe.max_tokens),)
        shown = made.kept[:MOST_WINDOWS] or whole
        used = bool(made.kept)
        pair = made.kept if source.recipe.group > 1 else ()
        samples = tuple(self._see(sample, voices, (pair or (sample,)) if used else ()) for sample in shown)
        if pair:
            samples = tuple(replace(one, name=name) for one, name in zip(samples, SIDES, strict=True))
        elif used and made.kept[0].is_desirable is not None:
            name = "desirable" if made.kept[0].is_desirable else "undesirable"
            samples = tuple(replace(one, name=name) for one in samples)
        num_tokens = 0 if made.whole is None else len(made.whole.input_ids)
        return SeenRow(
            source=source.number,
            number=index + 1,
            place=place,
            num_tokens=num_tokens,
            is_cut=made.is_cut,
            reason=made.reason,
            num_samples=len(made.kept),
            samples=samples,
        )

    def _see(self, sample: Sample, voices: Voices | None, used: Sequence[Sample]) -> SeenSample:
        pieces = name_roles(tuple(self.reader.read(sample)), voices)
        use = self.uses.find(used) if used else ""
        return SeenSample(pieces, len(sample.input_ids), sample.num_targets, use)


def _cut_whole(sample: Sample, max_tokens: int) -> Sample:
    """What is shown of a row that is dropped."""
    return Sample(sample.input_ids[:max_tokens], sample.labels[:max_tokens])
