"""The whole data stage: sources -> samples -> split -> packs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.shelves import TEMPLATES
from siredon.data.audit import Counts, check_counts
from siredon.data.cache import cache_key, load_or_make
from siredon.data.choose import choose_format, fingerprint_format
from siredon.data.collate import Collator, PackDataset
from siredon.data.load import Source, fingerprint_entry, fingerprint_hub, load_rows
from siredon.data.pack import fill, pack_best_fit
from siredon.data.render import Rendered, Renderer, build_renderer
from siredon.data.table import SampleTable, build_table
from siredon.data.tokenize import tokenize_rendered
from siredon.data.types import IGNORE, Format, ReadOptions, RowError, Sample, Template, Text
from siredon.errors import DataError

_BATCH_ROWS = 1_000
_MAX_BAD_ROWS = 5


@dataclass(frozen=True)
class Prepared:
    """Data ready for training.

    Args:
        train: Packs to learn from.
        validation: Packs to measure on; None without validation rows.
        collator: Makes batches of both.
        counts: What became of the rows, by data set.
        fingerprint: Changes when anything about the samples changes.
        lines: What to tell the user.
    """

    train: PackDataset
    validation: PackDataset | None
    collator: Collator
    counts: tuple[Counts, ...]
    fingerprint: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Preparation:
    """What stays the same for every data set of a run."""

    tokenizer: Any
    chat_template: str | None
    data: DataSection

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
    preparation: Preparation, packing: PackingSection, seed: int, *, multiple: int = 1
) -> Prepared:
    """Loads, renders, tokenizes, checks, splits and packs everything that the config names.

    Args:
        preparation: What stays the same for every data set.
        packing: Whether rows are packed and padded.
        seed: Seed of the shuffle and the split.
        multiple: Empty packs are added until the training packs are a multiple of this, so that several
            ranks share an epoch without training on any row twice.

    Raises:
        DataError: A source that cannot be read, rows that cannot be used, or nothing to learn.
    """
    data = preparation.data
    train_parts = [_prepare_entry(entry, preparation, seed) for entry in data.datasets]
    test_parts = [_prepare_entry(entry, preparation, seed) for entry in data.test_datasets]
    lines = [line for part in [*train_parts, *test_parts] for line in part.lines]
    train = _concatenate([part.table for part in train_parts])
    validation = _concatenate([part.table for part in test_parts]) if test_parts else None
    train, validation = _split(train, validation, data, seed)
    train_packs = _pack(train, packing.sample_packing, data.sequence_len)
    lines.append(_describe("training", train, train_packs, packing.sample_packing, data.sequence_len))
    train_packs += [[] for _ in range(-len(train_packs) % multiple)]
    dataset = None
    if validation is not None:
        packs = _pack(validation, packing.pack_eval, data.sequence_len)
        lines.append(_describe("validation", validation, packs, packing.pack_eval, data.sequence_len))
        dataset = PackDataset(validation, packs)
    pad_id = _pad_id(preparation.tokenizer)
    full = data.sequence_len if packing.pads_fully else None
    keys = [part.key for part in [*train_parts, *test_parts]]
    order = [data.val_set_size, data.shuffle_merged_datasets, packing.sample_packing, packing.pack_eval, seed]
    fingerprint = hashlib.sha256(json.dumps([keys, order]).encode()).hexdigest()[:24]
    return Prepared(
        PackDataset(train, train_packs),
        dataset,
        Collator(pad_id, full),
        tuple(part.counts for part in [*train_parts, *test_parts]),
        fingerprint,
        tuple(lines),
    )


def build_format(entry: DatasetEntry) -> Format:
    """The format that `type:` names or describes."""
    return choose_format(entry)


def resolve_template(entry: DatasetEntry, chat_template: str | None, tokenizer: Any) -> str:
    """Jinja source of the chat template for a data set.

    Raises:
        DataError: The tokenizer's own template is asked for, and it has none.
    """
    name = entry.chat_template or chat_template or "tokenizer_default"
    if name != "tokenizer_default":
        part = TEMPLATES.load(name)
        assert isinstance(part, Template)
        return part.source
    if not tokenizer.chat_template:
        raise DataError(
            f"{entry.path}: the tokenizer has no chat template of its own",
            f"Set `chat_template:` to one of {', '.join(TEMPLATES.names())}.",
        )
    return str(tokenizer.get_chat_template())


def entry_renderer(entry: DatasetEntry, chat_template: str | None, tokenizer: Any) -> Renderer:
    """What renders the rows of a data set: with its chat template, if its format needs one."""
    uses_template = build_format(entry).uses_template
    template = resolve_template(entry, chat_template, tokenizer) if uses_template else None
    return build_renderer(tokenizer, template)


@dataclass(frozen=True)
class _Part:
    table: SampleTable
    counts: Counts
    key: str
    cached: bool

    @property
    def lines(self) -> list[str]:
        first, *rest = self.counts.lines()
        return [f"{first} (prepared before)" if self.cached else first, *rest]


def _prepare_entry(entry: DatasetEntry, preparation: Preparation, seed: int) -> _Part:
    renderer = entry_renderer(entry, preparation.chat_template, preparation.tokenizer)
    content = fingerprint_entry(entry, seed)
    source = load_rows(entry, seed) if content is None else None
    data = preparation.data
    key = cache_key(
        {
            "content": fingerprint_hub(source) if source else content,
            "entry": entry.model_dump(mode="json"),
            "format": fingerprint_format(entry),
            "template": renderer.template,
            "tokenizer": preparation.tokenizer_content,
            "options": [data.sequence_len, data.excess_length_strategy, data.train_on_inputs],
        }
    )

    def make() -> tuple[SampleTable, Counts]:
        return _make_samples(source or load_rows(entry, seed), entry, renderer, preparation)

    root = Path(data.dataset_prepared_path).expanduser()
    table, counts, cached = load_or_make(root, key, make)
    wants_stop = build_format(entry).ends and entry.train_on_eos != "none"
    check_counts([counts], wants_stop=wants_stop)
    return _Part(table, counts, key, cached)


def _make_samples(
    source: Source, entry: DatasetEntry, renderer: Renderer, preparation: Preparation
) -> tuple[SampleTable, Counts]:
    data = preparation.data
    samples: list[Sample] = []
    too_long = truncated = empty = stops = 0
    for batch in _render_batches(source, entry, renderer, data.train_on_inputs):
        rendered = [row for row, _ in batch]
        tokenized = tokenize_rendered(preparation.tokenizer, rendered)
        for sample, (row, split) in zip(tokenized, batch, strict=True):
            pieces, cut = _fit(sample, split, data, source.name)
            too_long += not pieces
            truncated += cut
            kept = [piece for piece in pieces if piece.num_targets]
            empty += bool(pieces) and not kept
            stops += bool(kept) and row.learns_stop and not cut
            samples += kept
    table = build_table(samples)
    counts = Counts(
        source.name,
        len(source.rows),
        len(samples),
        too_long,
        truncated,
        empty,
        stops,
        table.num_tokens,
        table.num_targets,
    )
    return table, counts


def _render_batches(
    source: Source, entry: DatasetEntry, renderer: Renderer, train_on_inputs: bool
) -> Iterator[list[tuple[Rendered, bool]]]:
    """Batches of rendered rows, each with whether an over-long text is split.

    Raises:
        DataError: At least one row cannot be used; the first few are named.
    """
    part = build_format(entry)
    options = ReadOptions(entry, train_on_inputs, renderer.bos, renderer.eos)
    bad: list[str] = []
    batch: list[tuple[Rendered, bool]] = []
    for number, row in enumerate(source.rows):
        try:
            item = part.read(row, options)
            split = isinstance(item, Text) and item.split
            batch.append((renderer.render(item, entry.train_on_eos), split))
        except RowError as error:
            bad.append(f"{source.place(number)} {error}")
            if len(bad) == _MAX_BAD_ROWS:
                break
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if bad:
        more = " (and perhaps more)" if len(bad) == _MAX_BAD_ROWS else ""
        raise DataError(
            "\n".join(bad) + more, "Mend or remove these rows, or correct the field names of the data set."
        )
    if batch:
        yield batch


def _fit(sample: Sample, split: bool, data: DataSection, source: str) -> tuple[list[Sample], bool]:
    """A sample brought to `sequence_len`: the pieces that are kept, and whether it was truncated."""
    limit, length = data.sequence_len, len(sample.input_ids)
    if length <= limit:
        return [sample], False
    if split:
        return [_slice(sample, start, start + limit) for start in range(0, length, limit)], False
    if data.excess_length_strategy == "truncate":
        return [_slice(sample, 0, limit)], True
    if data.excess_length_strategy == "raise":
        raise DataError(
            f"{source}: a row has {length:,} tokens, over sequence_len: {limit:,}",
            "Raise `sequence_len`, or set `excess_length_strategy: drop` or `truncate`.",
        )
    return [], False


def _slice(sample: Sample, start: int, end: int) -> Sample:
    labels = sample.labels[start:end].copy()
    labels[:1] = IGNORE
    return Sample(sample.input_ids[start:end], labels)


def _concatenate(tables: Sequence[SampleTable]) -> SampleTable:
    if len(tables) == 1:
        return tables[0]
    return build_table(table[index] for table in tables for index in range(len(table)))


def _split(
    train: SampleTable, validation: SampleTable | None, data: DataSection, seed: int
) -> tuple[SampleTable, SampleTable | None]:
    """Shuffles by `seed` and holds out `val_set_size`."""
    order = np.arange(len(train))
    if data.shuffle_merged_datasets:
        order = np.random.default_rng(seed).permutation(len(train))
    if not data.val_set_size:
        return train.select(order), validation
    size = data.val_set_size
    held_out = round(size * len(train)) if size < 1 else int(size)
    if not 0 < held_out < len(train):
        raise DataError(
            f"val_set_size: {size:g} holds out {held_out:,} of {len(train):,} samples",
            "Choose a size that leaves samples on both sides.",
        )
    return train.select(order[:-held_out]), train.select(order[-held_out:])


def _pack(table: SampleTable, packed: bool, capacity: int) -> list[list[int]]:
    if packed:
        return pack_best_fit(table.lengths, capacity)
    return [[index] for index in range(len(table))]


def _describe(
    what: str, table: SampleTable, packs: Sequence[Sequence[int]], packed: bool, capacity: int
) -> str:
    text = (
        f"{what}: {len(table):,} samples, {table.num_tokens:,} tokens, longest {int(table.lengths.max()):,}"
    )
    if not packed:
        return text
    return f"{text}; {len(packs):,} packs of {capacity:,}, {100 * fill(packs, table.lengths, capacity):.1f} % full"


def _pad_id(tokenizer: Any) -> int:
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise DataError(
        "the tokenizer has neither a pad nor an eos token", "Set `special_tokens: {pad_token: ...}`."
    )
