"""The whole data stage: sources -> samples -> split -> packs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS, JUDGED_FORMATS, PREFERENCE_FORMATS
from siredon.data.audit import Counts, check_counts
from siredon.data.cache import Content, cache_key, fingerprint_code, load_or_make
from siredon.data.choose import choose_format, fingerprint_format
from siredon.data.collate import Collator, MixedDataset, PackDataset, build_collator
from siredon.data.epochs import EpochPacks, Horizon, count_packs, pack_samples
from siredon.data.load import fingerprint_entry, load_rows
from siredon.data.match import JudgedCollator, match_sides
from siredon.data.mix import Mixture, name_sources
from siredon.data.pack import Packs
from siredon.data.pairs import PAIR
from siredon.data.samples import Recipe, make_samples
from siredon.data.split import Order, compare_sides, split_samples
from siredon.data.table import JoinedTable, SampleTable
from siredon.data.template import entry_renderer, stop_policy
from siredon.errors import DataError
from siredon.registry import Shelf

if TYPE_CHECKING:  # Preparing data takes no PyTorch
    from siredon.data.stream import Stream


@dataclass(frozen=True)
class Prepared:
    """Data ready for training.

    Args:
        train: Packs to learn from, or a stream of them.
        validation: Packs to measure on; None without validation rows.
        collator: Makes batches of both.
        counts: What became of the rows, by data set.
        fingerprint: Changes when anything about the samples changes.
        lines: What to tell the user.
        warnings: What the user should know before training.
        sources: Names of the training data sets.
        contents: A hash of what each data set is, before it is rendered: training, then validation.
        train_fingerprint: Changes when anything about the training samples changes; empty where it is not told apart.
    """

    train: PackDataset | Stream
    validation: PackDataset | None
    collator: Collator
    counts: tuple[Counts, ...]
    fingerprint: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    train_fingerprint: str = ""

    @property
    def num_packs(self) -> int | None:
        """Training packs in an epoch; None for a stream."""
        return len(self.train) if isinstance(self.train, PackDataset) else None


@dataclass(frozen=True)
class Preparation:
    """What stays the same for every data set of a run.

    Args:
        tokenizer: The tokenizer, with its special tokens.
        section: Chat template, and tokens that end a turn.
        data: The data sets, and what is done with their rows.
        seed: Seed of the shuffle and the split.
        horizon: How far the run goes: how many epochs may be drawn, where data sets are mixed.
        streaming: What is read while training, if anything is.
        formats: The shelf of the formats of the rows.
    """

    tokenizer: Any
    section: TokenizerSection
    data: DataSection
    seed: int
    horizon: Horizon = field(default_factory=Horizon)
    streaming: StreamingSection = field(default_factory=StreamingSection)
    formats: Shelf = FORMATS

    @property
    def group(self) -> int:
        """Samples of a row that stay together: two of a pair."""
        return PAIR if self.formats is PREFERENCE_FORMATS else 1

    @property
    def judges(self) -> bool:
        """Whether rows are answers that are good or bad."""
        return self.formats is JUDGED_FORMATS

    @cached_property
    def tokenizer_content(self) -> str:
        """A hash of the vocabulary and of the special tokens."""
        tokenizer = self.tokenizer
        backend = (
            tokenizer.backend_tokenizer.to_str()
            if tokenizer.is_fast
            else repr(sorted(tokenizer.get_vocab().items()))
        )
        text = json.dumps([backend, tokenizer.special_tokens_map], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def prepare_data(
    preparation: Preparation, packing: PackingSection, *, multiple: int = 1, flatten: bool = False
) -> Prepared:
    """Loads, renders, tokenizes, checks, splits and packs everything that the config names.

    Args:
        preparation: What stays the same for every data set.
        packing: Whether rows are packed and padded.
        multiple: Empty packs are added until the training packs are a multiple of this, so that several
            ranks share an epoch without training on any row twice.
        flatten: The packs of a batch lie end to end.

    Raises:
        DataError: A source that cannot be read, rows that cannot be used, or nothing to learn.
    """
    data = preparation.data
    train_parts = [prepare_entry(entry, preparation, data.sequence_len) for entry in data.datasets]
    test_parts = [prepare_entry(entry, preparation, data.eval_tokens) for entry in data.test_datasets]
    parts = [*train_parts, *test_parts]
    group = preparation.group
    table = JoinedTable(tuple(part.table for part in train_parts), group)
    keeps_order = bool(packing.curriculum_sampling)
    split = split_samples(table, data, preparation.seed, keeps_order=keeps_order)
    held_out, order = (table, split.validation)
    if test_parts:
        held_out = JoinedTable(tuple(part.table for part in test_parts), group)
        order = np.arange(len(held_out))
    lines = [line for part in parts for line in part.lines] + [*split.lines]
    warnings = [line for part in parts for line in part.counts.warnings()] + [*split.warnings]
    warnings += compare_sides(table, held_out) if test_parts else ()
    if preparation.judges:
        tests = held_out if test_parts else None
        table, held_out, more = match_sides((table, tests), split, data, preparation.seed)
        lines += more
    train, more = (
        _mix(table, split.train, preparation, packing, multiple)
        if data.is_mixed
        else _join(table, split.train, packing, group * data.sequence_len, multiple)
    )
    lines += more
    validation = None
    if order is not None:
        validation, line = pack_validation((held_out, order), packing, group * data.eval_tokens)
        lines.append(line)
    return Prepared(
        train,
        validation,
        choose_collator(preparation, packing, flatten=flatten),
        tuple(part.counts for part in parts),
        _fingerprint([part.key for part in parts], preparation, packing, len(train)),
        tuple(lines),
        tuple(warnings),
        name_sources([entry.path for entry in data.datasets]),
        contents=tuple(part.content for part in parts),
        train_fingerprint=_fingerprint(
            [part.key for part in train_parts], preparation, packing, len(train), of_validation=False
        ),
    )


def choose_collator(preparation: Preparation, packing: PackingSection, *, flatten: bool) -> Collator:
    """What makes batches of the rows; `flatten` as for `prepare_data`."""
    longest = preparation.group * preparation.data.sequence_len
    collator = build_collator(find_pad_id(preparation.tokenizer), longest, packing, flatten=flatten)
    if preparation.judges:
        return JudgedCollator(**vars(replace(collator, marks_samples=True)))
    return replace(collator, marks_samples=preparation.group > 1)


@dataclass(frozen=True)
class Part:
    """A data set that is prepared.

    Args:
        table: Its samples.
        counts: What became of its rows.
        key: Changes when anything about the samples changes.
        cached: It was prepared before.
        content: A hash of its rows, as they are at their source.
    """

    table: SampleTable
    counts: Counts
    key: str
    cached: bool
    content: str

    @property
    def lines(self) -> list[str]:
        """For people."""
        first, *rest = self.counts.lines()
        return [f"{first} (prepared before)" if self.cached else first, *rest]


def prepare_entry(entry: DatasetEntry, preparation: Preparation, max_tokens: int) -> Part:
    """All samples of a data set, from the cache if they are there.

    Raises:
        DataError: It cannot be read, rows cannot be used, or there is nothing to learn.
    """
    recipe = build_recipe(entry, preparation, max_tokens)
    content = fingerprint_entry(entry, preparation.seed)
    source = load_rows(entry, preparation.seed) if content is None else None
    content = content if source is None else source.fingerprint
    key = entry_key(recipe, preparation, content)

    def make() -> Content:
        return make_samples(source or load_rows(entry, preparation.seed), recipe)

    root = Path(preparation.data.dataset_prepared_path).expanduser()
    (table, counts), cached = load_or_make(root, key, make)
    wants_stop = recipe.format.ends and entry.train_on_eos != "none"
    check_counts([counts], wants_stop=wants_stop)
    return Part(table, counts, key, cached, content or "")


def entry_key(recipe: Recipe, preparation: Preparation, content: str | None) -> str:
    """A hash of everything that decides what the samples of a data set are; `content` is that of its rows."""
    entry, template = recipe.entry, recipe.renderer.template or ""
    return cache_key(
        {
            "content": content,
            "entry": entry.model_dump(mode="json", exclude={"weight"}),
            "format": [
                preparation.formats.name,
                fingerprint_format(entry, preparation.formats),
                fingerprint_code(),
            ],
            "template": [
                template,
                recipe.renderer.kwargs,
                preparation.section.eot_tokens,
                recipe.renderer.system,
            ],
            # What a template prints that shows the date is another text tomorrow
            "date": str(date.today()) if "strftime_now" in template else "",
            "tokenizer": preparation.tokenizer_content,
            "options": _options(preparation.data, recipe.max_tokens),
        }
    )


def build_recipe(entry: DatasetEntry, preparation: Preparation, max_tokens: int) -> Recipe:
    """What makes samples of the rows of a data set."""
    return Recipe(
        preparation.tokenizer,
        entry,
        choose_format(entry, preparation.formats),
        entry_renderer(entry, preparation.section, preparation.tokenizer, preparation.formats),
        stop_policy(entry, preparation.section),
        preparation.data,
        max_tokens,
        preparation.group,
    )


def _options(data: DataSection, max_tokens: int) -> list[object]:
    """What else decides what the samples are."""
    cut = [data.excess_length_side] if data.excess_length_side != "response" else []
    return [max_tokens, data.excess_length_strategy, data.train_on_inputs, data.shortest, data.bad_rows, *cut]


def _fingerprint(
    keys: Sequence[str],
    preparation: Preparation,
    packing: PackingSection,
    num_packs: int,
    *,
    of_validation: bool = True,
) -> str:
    """Hash of the samples and of their order; without `of_validation` of those that are trained on."""
    data = preparation.data
    order = data.model_dump(
        mode="json",
        include={
            "val_set_size",
            "shuffle_merged_datasets",
            "shuffle_before_merging_datasets",
            "dataset_exact_deduplication",
            "eval_sequence_len",
        },
    )
    if data.is_mixed:
        weights = [entry.weight for entry in data.datasets]
        order |= {"mix_strategy": data.mix_strategy, "weights": weights, "packs": num_packs}
    packs = packing.model_dump(mode="json")
    if not of_validation:
        del order["eval_sequence_len"], packs["eval_sample_packing"]
    text = json.dumps([keys, order, packs, preparation.seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def pack_validation(
    chosen: tuple[JoinedTable, Order], packing: PackingSection, capacity: int
) -> tuple[PackDataset, str]:
    """Packs of the chosen samples, as validation wants them, and a line about them."""
    options = packing.model_copy(update={"sample_packing": packing.pack_eval})
    return _pack("validation", chosen, options, capacity)


def _pack(
    what: str, chosen: tuple[JoinedTable, Order], packing: PackingSection, capacity: int
) -> tuple[PackDataset, str]:
    """Packs of the chosen samples, and a line about them."""
    table, order = chosen
    packs = pack_samples(order, table.lengths, packing, capacity)
    return PackDataset(table, packs), f"{what}: {_describe(packs, table, packing, capacity)}"


def _describe(packs: Packs, table: JoinedTable, packing: PackingSection, capacity: int) -> str:
    lengths = table.lengths
    used = lengths[packs.indices]
    text = f"{len(used):,} {table.unit}, {int(used.sum()):,} tokens, longest {int(used.max()):,}"
    if packing.sample_packing:
        text += f"; {len(packs):,} packs of {capacity:,}, {100 * packs.fill(lengths, capacity):.1f} % full"
    return text


def _join(
    table: JoinedTable, order: Order, packing: PackingSection, capacity: int, multiple: int
) -> tuple[PackDataset, list[str]]:
    """The training samples of all data sets, and a line about them."""
    train, line = _pack("training", (table, order), packing, capacity)
    return PackDataset(table, train.packs.pad_to_multiple(multiple)), [line]


def _mix(
    table: JoinedTable, order: Order, preparation: Preparation, packing: PackingSection, multiple: int
) -> tuple[MixedDataset, list[str]]:
    """The training samples, drawn by weight, and lines about them.

    Raises:
        DataError: Nothing is left of a data set.
    """
    data, lengths = preparation.data, table.lengths
    source = table.tables_of(order)
    pools = tuple(order[source == place] for place in range(len(data.datasets)))
    for entry, pool in zip(data.datasets, pools, strict=True):
        if not len(pool):
            raise DataError(
                f"{entry.path}: no sample is left to mix: all are held out, or equal to another",
                "Remove the data set, or choose a smaller `val_set_size`.",
            )
    assert data.mix_strategy != "concatenate"
    mixture = Mixture(
        pools, tuple(entry.weight for entry in data.datasets), data.mix_strategy, preparation.seed
    )
    capacity = preparation.group * data.sequence_len
    draw = EpochPacks(mixture, lengths, packing, capacity)
    draw = replace(draw, num_packs=count_packs(draw, preparation.horizon, multiple))
    train = MixedDataset(table, draw)
    lines = [f"training: an epoch has {_describe(train.packs, table, packing, capacity)}"]
    counts, names = mixture.counts, name_sources([entry.path for entry in data.datasets])
    for name, count, pool in zip(names, counts.tolist(), pools, strict=True):
        lines.append(
            f"  {100 * count / counts.sum():.1f} % {name}: {count:,} samples, drawn from {len(pool):,}"
        )
    return train, lines


def find_pad_id(tokenizer: Any) -> int:
    """The id that fills.

    Raises:
        DataError: There is none.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise DataError(
        "the tokenizer has neither a pad nor an eos token", "Set `special_tokens: {pad_token: ...}`."
    )
