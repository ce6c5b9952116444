"""The rows of one data set -> samples: read, rendered, tokenized, brought to length, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.data.audit import NO_TARGETS, TOO_LONG, TOO_SHORT, Counts
from siredon.data.load import Source, split_pieces
from siredon.data.pairs import PAIR, find_fault, render_pair, trim_prompt
from siredon.data.render import Rendered, Renderer, StopPolicy
from siredon.data.special_text import find_special
from siredon.data.steps import tokenize_steps
from siredon.data.table import SampleTable, TableBuilder
from siredon.data.tokenize import tokenize_rendered
from siredon.data.types import (
    IGNORE,
    Format,
    Judged,
    LeftOut,
    Preference,
    ReadOptions,
    RowError,
    Sample,
    Steps,
    Text,
)
from siredon.errors import DataError

_BATCH_ROWS = 1_000
_MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Readied:
    """A row before it is tokenized.

    Args:
        sides: Its text in spans, or the tokens that it is already; of a preference the chosen and the rejected one.
        split: It is cut into windows where it is too long.
        special: A special token whose text the row itself holds; None if it holds none.
        is_desirable: Whether its answer is good; None where it is not judged.
        margin: Of a preference, by how much the better answer should be ahead.
    """

    sides: tuple[Rendered | Sample, ...]
    split: bool = False
    special: str | None = None
    is_desirable: bool | None = None
    margin: float = 0.0

    @property
    def rendered(self) -> Rendered | Sample:
        """The first side, or the only one."""
        return self.sides[0]

    @property
    def learns_stop(self) -> bool:
        """Whether a stop token is among what is learned, as far as that is known, on each side."""
        return all(isinstance(side, Rendered) and side.learns_stop for side in self.sides)


@dataclass(frozen=True)
class Recipe:
    """What makes samples of the rows of one data set.

    Args:
        tokenizer: The tokenizer.
        entry: The data set.
        format: Reads its rows.
        renderer: Renders them.
        policy: Which stop tokens are learned.
        data: Lengths, and what becomes of rows that cannot be used.
        max_tokens: The longest sample.
        group: Samples of a row that stay together: two of a pair.
    """

    tokenizer: Any
    entry: DatasetEntry
    format: Format
    renderer: Renderer
    policy: StopPolicy
    data: DataSection
    max_tokens: int
    group: int = 1

    @cached_property
    def options(self) -> ReadOptions:
        """What the format needs to read a row."""
        return ReadOptions(
            self.entry,
            self.data.train_on_inputs,
            self.renderer.bos,
            self.renderer.eos,
            len(self.tokenizer),
            self.max_tokens,
        )

    @property
    def trims_prompts(self) -> bool:
        """Whether what is too long of a pair is cut from its prompt, so that answers and their stops stay whole."""
        data = self.data
        return self.group == PAIR and (data.excess_length_strategy, data.excess_length_side) == (
            "truncate",
            "prompt",
        )

    def render(self, row: Any) -> Readied:
        """A row as text in spans, or as the tokens that it is.

        Raises:
            RowError: It cannot be used.
        """
        try:
            return self._ready(row)
        except RecursionError:
            raise RowError("holds lists or objects that are nested too deeply") from None

    def _ready(self, row: Any) -> Readied:
        item = self.format.read(row, self.options)
        if isinstance(item, Sample):
            return Readied((item,))
        if isinstance(item, Steps):
            return Readied((tokenize_steps(item, self.tokenizer),))
        if isinstance(item, Preference):
            sides = render_pair(item, self.renderer, self.policy)
            found = (
                find_special(part, row, side.text, self.renderer.special)
                for part, side in zip((item.chosen, item.rejected), sides, strict=True)
            )
            return Readied(sides, special=next(filter(None, found), None), margin=item.margin)
        judged = item.is_desirable if isinstance(item, Judged) else None
        text = item.answer if isinstance(item, Judged) else item
        rendered = self.renderer.render(text, self.policy)
        special = find_special(text, row, rendered.text, self.renderer.special)
        return Readied((rendered,), isinstance(text, Text) and text.split, special, judged)


@dataclass
class _Tally:
    """What was counted so far."""

    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    num_bad: int = 0
    num_truncated: int = 0
    num_with_stop: int = 0
    specials: Counter[str] = field(default_factory=Counter)

    def add_bad(self, place: str, error: RowError) -> None:
        """A row that cannot be used; rows with the same reason but for numbers and names are counted together."""
        self.num_bad += 1
        self.dropped[sum_up(str(error))] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{place} {error}")


def sum_up(reason: str) -> str:
    """What reasons that differ in numbers only are counted as."""
    return re.sub(r"\d+", "N", reason.partition("\n")[0])[:120]


@dataclass(frozen=True)
class Made:
    """What became of one row.

    Args:
        text: The row, rendered; empty if it cannot be used.  Of a pair, the chosen side.
        whole: All its tokens, before it is brought to length; None if it cannot be used.  Of a pair, the longer side.
        kept: Its samples.
        is_cut: Whether it was truncated.
        reason: Why there is no sample; empty if there is one.
    """

    text: str
    whole: Sample | None
    kept: tuple[Sample, ...]
    is_cut: bool = False
    reason: str = ""


def make_row(row: Any, place: str, recipe: Recipe) -> Made:
    """What `make_samples` makes of one row, and why, for those who look at it.

    Args:
        row: The row.
        place: Where it stands.
        recipe: What makes samples of the rows.
    """
    try:
        ready = recipe.render(row)
    except RowError as error:
        return Made("", None, (), reason=str(error))
    samples = _tokenize(recipe.tokenizer, ready.sides)
    if isinstance(ready.rendered, Sample):
        text = str(recipe.tokenizer.decode(ready.rendered.input_ids))
    else:
        text = ready.rendered.text
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, RowError):
            return Made(text, None, (), reason=str(sample))
        whole.append(sample)
    longest = max(whole, key=lambda side: len(side.input_ids))
    try:
        kept, is_cut, reason = _keep(whole, ready, lambda: place, recipe)
    except DataError as error:
        return Made(text, longest, (), reason=error.message)
    return Made(text, longest, tuple(kept), is_cut, reason)


def make_samples(source: Source, recipe: Recipe) -> tuple[SampleTable, Counts]:
    """All samples of a data set.

    While the tokenizer works on a batch, on all cores, the next one is rendered.

    Raises:
        DataError: Rows that cannot be used, under `bad_rows: error`, or one that is too long, under `raise`.
    """
    tally = _Tally()
    builder = TableBuilder(Path(recipe.data.dataset_prepared_path).expanduser())
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[list[_Placed], Future[list[Sample | RowError]]] | None = None
        for batch in _render_batches(source, recipe, tally):
            sides = [side for row in batch for side in row.ready.sides]
            task = pool.submit(_tokenize, recipe.tokenizer, sides)
            if waiting is not None:
                _collect(waiting[0], waiting[1].result(), recipe, (builder, tally))
            waiting = batch, task
        if waiting is not None:
            _collect(waiting[0], waiting[1].result(), recipe, (builder, tally))
    if tally.num_bad and recipe.data.bad_rows == "error":
        raise _bad_rows_error(tally)
    table = builder.build()
    counts = Counts(
        source.name,
        len(source.rows),
        len(table),
        tally.num_truncated,
        tally.num_with_stop,
        table.num_tokens,
        table.num_targets,
        dict(tally.dropped),
        tuple(tally.examples),
        dict(tally.specials),
        group=recipe.group,
    )
    return table, counts


def _tokenize(tokenizer: Any, rows: Sequence[Rendered | Sample]) -> list[Sample | RowError]:
    """The samples of a batch; rows that are samples already stay as they are."""
    texts = [row for row in rows if isinstance(row, Rendered)]
    made = iter(tokenize_rendered(tokenizer, texts) if texts else ())
    return [row if isinstance(row, Sample) else next(made) for row in rows]


@dataclass(frozen=True)
class _Placed:
    ready: Readied
    source: Source
    index: int

    def find_place(self) -> str:
        """File and number, for errors."""
        return self.source.place(self.index)


def _render_batches(source: Source, recipe: Recipe, tally: _Tally) -> Iterator[list[_Placed]]:
    batch: list[_Placed] = []
    numbered = (
        (start + index, row)
        for start, piece in split_pieces(source, recipe.entry)
        for index, row in enumerate(piece.rows)
    )
    for index, row in numbered:
        try:
            ready = recipe.render(row)
        except LeftOut as error:
            tally.dropped[str(error)] += 1
            continue
        except RowError as error:
            tally.add_bad(source.place(index), error)
            continue
        except DataError as error:
            raise DataError(f"{source.place(index)}: {error.message}", error.fix) from error
        if tally.num_bad and recipe.data.bad_rows == "error":
            continue  # Only the other bad rows are of interest now
        batch.append(_Placed(ready, source, index))
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _collect(
    batch: Sequence[_Placed],
    tokenized: Sequence[Sample | RowError],
    recipe: Recipe,
    result: tuple[TableBuilder, _Tally],
) -> None:
    """Brings samples to length, keeps those that teach something, and counts."""
    builder, tally = result
    made = iter(tokenized)
    for row in batch:
        found = list(islice(made, len(row.ready.sides)))
        error = next((side for side in found if isinstance(side, RowError)), None)
        if error is not None:
            tally.add_bad(row.find_place(), error)
            continue
        sides = [side for side in found if isinstance(side, Sample)]
        kept, is_cut, reason = _keep(sides, row.ready, row.find_place, recipe)
        if not kept:
            tally.dropped[reason] += 1
        tally.num_truncated += is_cut
        tally.num_with_stop += bool(kept) and row.ready.learns_stop and (not is_cut or recipe.trims_prompts)
        if kept and row.ready.special:
            tally.specials[row.ready.special] += 1
        for piece in kept:
            builder.add(replace(piece, margin=row.ready.margin))


def _keep(
    sides: Sequence[Sample], ready: Readied, find_place: Callable[[], str], recipe: Recipe
) -> tuple[list[Sample], bool, str]:
    """What is kept of a row: samples that teach something, of a pair both or none; whether any was truncated; why
    there are none.
    """
    trimmed, why_not = False, ""
    if recipe.trims_prompts:
        sides, trimmed, why_not = trim_prompt(sides, recipe.max_tokens, recipe.tokenizer.bos_token_id)
    if why_not:
        return [], False, why_not
    fitted = [_fit(side, ready.split, find_place, recipe) for side in sides]
    is_cut = trimmed or any(cut for _, cut, _ in fitted)
    reason = next((why for _, _, why in fitted if why), "")
    pieces = [piece for found, _, _ in fitted for piece in found]
    if len(sides) == 1:
        kept = [replace(piece, is_desirable=ready.is_desirable) for piece in pieces if piece.num_targets]
        return kept, is_cut, "" if kept else reason or NO_TARGETS
    reason = reason or find_fault(pieces)
    return [] if reason else pieces, is_cut, reason


def _fit(
    sample: Sample, split: bool, find_place: Callable[[], str], recipe: Recipe
) -> tuple[list[Sample], bool, str]:
    """A sample brought to length: the pieces that are kept, whether it was truncated, why it was dropped."""
    data, limit, length = recipe.data, recipe.max_tokens, len(sample.input_ids)
    if length < data.shortest:
        return [], False, TOO_SHORT
    if length <= limit:
        return [sample], False, ""
    if split:
        return [_slice(sample, start, start + limit) for start in range(0, length, limit)], False, ""
    if data.excess_length_strategy == "truncate":
        return [_slice(sample, 0, limit)], True, ""
    if data.excess_length_strategy == "raise":
        raise DataError(
            f"{find_place()} has {length:,} tokens, over sequence_len: {limit:,}",
            "Raise `sequence_len`, or set `excess_length_strategy: drop` or `truncate`.",
        )
    return [], False, TOO_LONG


def _slice(sample: Sample, start: int, end: int) -> Sample:
    labels = sample.labels[start:end].copy()
    labels[:1] = IGNORE
    return Sample(sample.input_ids[start:end], labels)


def _bad_rows_error(tally: _Tally) -> DataError:
    more = tally.num_bad - len(tally.examples)
    rest = f"\nand {more:,} more" if more else ""
    return DataError(
        "\n".join(tally.examples) + rest,
        "Mend or remove these rows, correct the field names of the data set, or set `bad_rows: drop`.",
    )
