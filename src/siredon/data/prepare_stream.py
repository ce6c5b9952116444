"""The data stage where training rows are streamed: sources are opened, validation rows are prepared as ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.data.collate import PackDataset, build_collator
from siredon.data.feed import Feed, Portion
from siredon.data.load import fingerprint_entry, load_rows
from siredon.data.prepare import (
    Part,
    Preparation,
    Prepared,
    build_recipe,
    entry_key,
    find_pad_id,
    pack_validation,
    prepare_entry,
)
from siredon.data.rows import Rows
from siredon.data.stream import Stream, StreamOptions
from siredon.data.table import JoinedTable

#: The length of a text that is not cut, as it is joined to others.
_WHOLE = 2**31 - 1


def prepare_stream(
    preparation: Preparation, packing: PackingSection, *, multiple: int = 1, flatten: bool = False
) -> Prepared:
    """Opens every source, and prepares what the model is measured on.

    Args:
        preparation: What stays the same for every data set.
        packing: Whether rows are packed and padded.
        multiple: Of no use: ranks need no multiple of packs where there is no end.
        flatten: The packs of a batch lie end to end.

    Raises:
        DataError: A source that cannot be read.
    """
    data = preparation.data
    options = _read_options(preparation, packing)
    max_tokens = _WHOLE if options.joins else data.sequence_len
    feeds, keys, contents = [], [], []
    for entry, portion in _list_sources(preparation):
        feed, key, content = _open_feed((entry, portion), preparation, max_tokens)
        feeds.append(feed)
        keys.append(key)
        contents.append(content)
    stream = Stream(feeds, options)
    parts = [prepare_entry(entry, preparation, data.eval_tokens) for entry in data.test_datasets]
    lines = [f"{feed.name}: {len(feed):,} rows, streamed" for feed in feeds]
    lines += [line for part in parts for line in part.lines]
    validation, packed = _pack_parts(parts, preparation, packing)
    return Prepared(
        stream,
        validation,
        build_collator(find_pad_id(preparation.tokenizer), data.sequence_len, packing, flatten=flatten),
        tuple(part.counts for part in parts),
        _fingerprint([*keys, *(part.key for part in parts)], options),
        (*lines, *packed),
        tuple(line for part in parts for line in part.counts.warnings()),
        contents=(*contents, *(part.content for part in parts)),
        train_fingerprint=_fingerprint(keys, replace(options, packing=_without_validation(packing))),
    )


def _without_validation(packing: PackingSection) -> PackingSection:
    return packing.model_copy(update={"eval_sample_packing": None})


def _read_options(preparation: Preparation, packing: PackingSection) -> StreamOptions:
    data, streaming = preparation.data, preparation.streaming
    return StreamOptions(
        preparation.seed,
        streaming.streaming_multipack_buffer_size,
        data.sequence_len,
        packing,
        joins=bool(streaming.pretraining_sample_concatenation)
        and bool(streaming.texts)
        and not packing.sample_packing,
        isolates=streaming.pretrain_multipack_attn or not streaming.texts,
        shuffles=not packing.curriculum_sampling
        and (data.shuffle_merged_datasets or data.shuffle_before_merging_datasets),
    )


def _list_sources(preparation: Preparation) -> Iterator[tuple[DatasetEntry, Portion]]:
    """Plain text first, then the other data sets: all are streams that take turns."""
    for entry in preparation.streaming.texts:
        yield (
            entry.as_dataset(),
            Portion(entry.skip or 0, entry.max_samples, entry.weight, repeats=entry.repeat),
        )
    for dataset in preparation.data.datasets:
        yield dataset, Portion()


def _open_feed(
    source: tuple[DatasetEntry, Portion], preparation: Preparation, max_tokens: int
) -> tuple[Feed, str, str]:
    """A source, a hash of everything that decides what it gives, and one of its rows alone."""
    entry, portion = source
    recipe = build_recipe(entry, preparation, max_tokens)
    content = fingerprint_entry(entry, preparation.seed)
    found = load_rows(entry, preparation.seed)
    assert isinstance(found.rows, Rows)
    content = found.fingerprint if content is None else content
    key = entry_key(recipe, preparation, content)
    return Feed(found.name, found.rows, recipe, portion), f"{key} {portion}", content


def _pack_parts(
    parts: list[Part], preparation: Preparation, packing: PackingSection
) -> tuple[PackDataset | None, list[str]]:
    if not parts:
        return None, []
    table = JoinedTable(tuple(part.table for part in parts))
    packs, line = pack_validation((table, np.arange(len(table))), packing, preparation.data.eval_tokens)
    return packs, [line]


def _fingerprint(keys: list[str], options: StreamOptions) -> str:
    packing = options.packing.model_dump(mode="json")
    facts = [keys, repr(replace(options, packing=PackingSection())), packing]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
