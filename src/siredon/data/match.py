"""Judged answers, each with the answer to another prompt: how far a model has drifted is measured on those.

What the answer to another prompt is for is in `train/kto_loss.py`.  It is fixed here, before training, by the seed: so
it is the same in every epoch, on every rank and after a resume, and a reference model can judge it ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.data.collate import Collator
from siredon.data.split import Order, Split
from siredon.data.table import Digests, JoinedTable, SampleTable
from siredon.data.types import IGNORE, Batch, Pack, Sample
from siredon.errors import DataError

#: An answer, and behind it the one to another prompt.
GROUP = 2
#: How many shifts of the shuffled rows are tried on all rows at once.
_NUM_SHIFTS = 64


@dataclass(frozen=True, kw_only=True)
class MatchedTable(JoinedTable):
    """Samples, each with its prompt before the answer of another row; these two are a group.

    The other answer is put together when it is asked for, of the ids of both rows.

    Args:
        partners: The row whose answer it is, shape [N].
        prompt_lengths: Tokens before what is learned, shape [N].
        max_tokens: Where an answer behind the prompt of each row is cut, shape [N].
    """

    partners: Order
    prompt_lengths: npt.NDArray[np.int64]
    max_tokens: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        sizes = [len(table) for table in self.tables]
        object.__setattr__(self, "starts", np.cumsum([0, *sizes], dtype=np.int64))

    def take(self, index: int) -> tuple[Sample, ...]:
        """An answer, and the mismatched one."""
        number, own = self._find(index)
        _, other = self._find(int(self.partners[index]))
        begin, after = int(self.prompt_lengths[index]), int(self.prompt_lengths[self.partners[index]])
        end = after + int(self.max_tokens[index]) - begin
        ids, labels = (
            np.concatenate([ours[:begin], theirs[after:end]])
            for ours, theirs in ((own.input_ids, other.input_ids), (own.labels, other.labels))
        )
        known = None if self.reference is None else self.reference[GROUP * index :]
        first, second = (None, None) if known is None else (float(known[0]), float(known[1]))
        return (
            replace(own, source=number, reference=first),
            Sample(ids, labels, number, second, is_mismatched=True),
        )

    def _find(self, index: int) -> tuple[int, Sample]:
        number = self.table_of(index)
        return number, self.tables[number][int(index - self.starts[number])]

    @cached_property
    def own_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, shape [N]."""
        return np.concatenate([table.lengths for table in self.tables])

    @property
    def sample_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each answer behind its prompt, and of the mismatched one, shape [N, 2]."""
        answers = self.own_lengths - self.prompt_lengths
        crossed = np.minimum(self.prompt_lengths + answers[self.partners], self.max_tokens)
        return np.stack([self.own_lengths, crossed], axis=1)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Room that a group takes, shape [N]: that of the longer sample, as the two lie in batches of their own."""
        longer: npt.NDArray[np.int64] = self.sample_lengths.max(axis=1)
        return longer

    @property
    def unit(self) -> str:
        """What a group is, in the plural."""
        return "answers"

    @property
    def digests(self) -> Digests:
        """What tells equal rows, shape [N, 2]."""
        return np.concatenate([table.digests for table in self.tables])

    def fingerprint(self) -> str:
        """A hash of all samples, and of which answer each prompt has besides its own."""
        parts = [super().fingerprint().encode(), self.partners.tobytes(), self.max_tokens.tobytes()]
        return hashlib.sha256(b"".join(parts)).hexdigest()


@dataclass(frozen=True)
class JudgedCollator(Collator):
    """Puts answers into a batch, and the mismatched ones of the same packs into another, `mismatched`."""

    def __call__(self, packs: Sequence[Pack]) -> Batch:
        """Packs of groups -> the batch of their answers, which says which are good and holds the other batch."""
        import torch  # Preparing data takes none

        answers, others = (
            [tuple(sample for sample in pack if sample.is_mismatched == wanted) for pack in packs]
            for wanted in (False, True)
        )
        batch = super().__call__(answers)
        judged = [bool(sample.is_desirable) for pack in answers for sample in pack]
        batch["desirable"] = torch.tensor(judged, dtype=torch.bool)
        batch["mismatched"] = super().__call__(others)
        return batch


def match_sides(
    tables: tuple[JoinedTable, JoinedTable | None], split: Split, data: DataSection, seed: int
) -> tuple[MatchedTable, MatchedTable, list[str]]:
    """Gives each row the answer of another row of its side: what is held out stays out of training.

    Args:
        tables: All training rows, and the rows of data sets for validation, if there are any.
        split: Which of the training rows are held out.
        data: The data sets, and the longest samples of training and of validation.
        seed: Decides which answer a prompt is given.

    Returns:
        The training rows, the rows that hold the validation ones, and lines for people.

    Raises:
        DataError: A row for which there is no other answer.
    """
    table, tests = tables
    files = _name_files(data.datasets)
    longest = np.full(len(table), data.sequence_len)
    held_out = np.zeros(len(table), dtype=bool)
    if split.validation is not None:
        held_out[split.validation] = True
        longest[split.validation] = data.eval_tokens
    sides = [(f"{files}: training", ~held_out), (f"{files}: validation", held_out)]
    train = validation = _match(table, sides, seed, longest)
    lines = [_count("training", train, split.train)]
    if tests is not None:
        validation, more = match_tests(tests, data, seed)
        lines.append(more)
    elif split.validation is not None:
        lines.append(_count("validation", validation, split.validation))
    return train, validation, lines


def match_tests(tests: JoinedTable, data: DataSection, seed: int) -> tuple[MatchedTable, str]:
    """The rows of data sets for validation, each with the answer of another, and a line for people.

    Raises:
        DataError: A row for which there is no other answer.
    """
    side = f"{_name_files(data.test_datasets)}: validation"
    longest = np.full(len(tests), data.eval_tokens)
    table = _match(tests, [(side, np.ones(len(tests), dtype=bool))], seed, longest)
    return table, _count("validation", table, np.arange(len(tests)))


def _name_files(entries: Sequence[DatasetEntry]) -> str:
    return ", ".join(entry.path for entry in entries)


def _count(side: str, table: MatchedTable, order: Order) -> str:
    judged = np.concatenate([_judgements(part) for part in table.tables])[order]
    answers = table.own_lengths - table.prompt_lengths
    cut = int((table.prompt_lengths + answers[table.partners] > table.max_tokens)[order].sum())
    line = f"  {side}: {int(judged.sum()):,} answers are good, {int((~judged).sum()):,} are bad"
    return line + (f"; behind another prompt {cut:,} are cut to length" if cut else "")


def _judgements(table: SampleTable) -> npt.NDArray[np.bool_]:
    if table.judgements is None:
        raise DataError(
            "rows without a judgement stand among judged ones", "Set `dataset_prepared_path` to a new folder."
        )
    return table.judgements


def _match(
    table: JoinedTable,
    sides: Sequence[tuple[str, npt.NDArray[np.bool_]]],
    seed: int,
    max_tokens: npt.NDArray[np.int64],
) -> MatchedTable:
    prompt_lengths = np.concatenate([_measure_prompts(part) for part in table.tables])
    partners = np.arange(len(table))
    alone = MatchedTable(
        table.tables, partners=partners, prompt_lengths=prompt_lengths, max_tokens=max_tokens
    )
    rows = _Rows(alone)
    for number, (side, holds) in enumerate(sides):
        pool = np.flatnonzero(holds)
        if len(pool):
            generator = np.random.default_rng([seed, number])
            partners[pool] = _find_partners(rows, pool[generator.permutation(len(pool))], pool, side)
    return replace(alone, partners=partners)


def _measure_prompts(table: SampleTable) -> npt.NDArray[np.int64]:
    """Tokens before the first learned one of each sample, [N]."""
    learned = np.flatnonzero(table.labels != IGNORE)
    starts = table.offsets[:-1]
    first: npt.NDArray[np.int64] = learned[np.searchsorted(learned, starts)] - starts
    return first


class _Rows:
    """Prompts and answers by hashes, so that equal ones are found in many rows at once."""

    def __init__(self, table: MatchedTable) -> None:
        self._table = table
        hashes = [
            [
                int.from_bytes(hashlib.blake2b(part.tobytes(), digest_size=8).digest(), "little")
                for part in parts
            ]
            for parts in self._cut_all()
        ]
        self.prompts, self.answers = np.array(hashes, dtype=np.uint64).reshape(-1, 2).T

    def _cut_all(self) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
        for index in range(len(self._table)):
            yield self._cut(index)

    def _cut(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        ids = self._table._find(index)[1].input_ids
        begin = self._table.prompt_lengths[index]
        return ids[:begin], ids[begin:]

    def fits(self, ones: Order, others: Order) -> npt.NDArray[np.bool_]:
        """Whether rows have other prompts and other answers than others, also once these are cut, [N]."""
        found: npt.NDArray[np.bool_] = (self.prompts[ones] != self.prompts[others]) & (
            self.answers[ones] != self.answers[others]
        )
        table = self._table
        lengths = table.own_lengths - table.prompt_lengths
        room = table.max_tokens[ones] - table.prompt_lengths[ones]
        for place in np.flatnonzero(found & (lengths[ones] == room) & (lengths[others] > room)):
            own, other = self._cut(int(ones[place]))[1], self._cut(int(others[place]))[1]
            found[place] = not np.array_equal(own, other[: len(own)])
        return found


def _find_partners(rows: _Rows, shuffled: Order, pool: Order, side: str) -> Order:
    """The row whose answer each row of a pool is given, [N]: as far behind it in the shuffled pool as need be.

    Raises:
        DataError: There is none for a row.
    """
    size = len(pool)
    partners = np.empty(size, dtype=np.int64)
    left = np.arange(size)  # Places in the shuffled order whose rows have no partner yet
    for shift in range(1, min(size, _NUM_SHIFTS)):
        found = shuffled[(left + shift) % size]
        fits = rows.fits(shuffled[left], found)
        partners[left[fits]] = found[fits]
        left = left[~fits]
    # Few are left, or nearly all rows are alike
    for place in left.tolist():
        partners[place] = _search(rows, shuffled, place, side)
    by_row = np.empty(size, dtype=np.int64)
    by_row[np.searchsorted(pool, shuffled)] = partners
    return by_row


def _search(rows: _Rows, shuffled: Order, place: int, side: str) -> int:
    row, size = shuffled[place], len(shuffled)
    others = np.roll(shuffled, -place - 1)[:-1]
    for start in range(0, size - 1, 4096):
        some = others[start : start + 4096]
        fits = rows.fits(np.full(len(some), row), some)
        if fits.any():
            return int(some[fits.argmax()])
    what = (
        "there is one row"
        if size == 1
        else f"none of the {size:,} rows has both another prompt and another answer than row {row + 1:,} of the "
        "prepared data"
    )
    raise DataError(
        f"{side}: `rl: kto` puts the answer of another row behind each prompt, and {what}",
        "Hold out two or more rows, or none."
        if side.endswith("validation")
        else "Add rows with other prompts and other answers.",
    )
