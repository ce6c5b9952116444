"""The rows that a model is judged on: those that training prepares, and no more of them than needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from siredon.config.schema import Config
from siredon.data.collate import Collator, PackDataset
from siredon.data.match import match_tests
from siredon.data.mix import name_sources
from siredon.data.prepare import Preparation, choose_collator, pack_validation, prepare_entry
from siredon.data.prepare_run import prepare_run
from siredon.data.table import JoinedTable
from siredon.errors import DataError
from siredon.evaluate.wanted import Split
from siredon.log import note, warn


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Args:
        split: What it is called.
        packs: The rows, packed or not, as training has them.
        collator: Makes batches of them, which say of which data set each token is.
        sources: Names of the data sets.
    """

    split: Literal["training", "validation"]
    packs: PackDataset
    collator: Collator
    sources: tuple[str, ...]


def prepare_rows(config: Config, tokenizer: Any, split: Split | None) -> tuple[Rows, ...]:
    """The rows of a split, or of both; of pairs both answers.

    Args:
        config: Data sets, packing, batches.
        tokenizer: With its special tokens.
        split: None for the validation rows, or the training rows where there are none.

    Raises:
        DataError: Rows that cannot be used; no such split.
    """
    data = config.data
    if split in ("validation", "all") and not config.has_validation:
        raise DataError(
            "the configuration holds no validation rows",
            "Name rows: `test_datasets.0.path=rows.jsonl`, set `val_set_size`, or judge on `--split training`.",
        )
    wanted = split or ("validation" if config.has_validation else "training")
    if wanted == "validation" and data.test_datasets:
        # Training rows are not even read
        return (_prepare_tests(config, tokenizer),)
    return tuple(rows for rows in _prepare_all(config, tokenizer) if wanted in ("all", rows.split))


def _prepare_all(config: Config, tokenizer: Any) -> Iterator[Rows]:
    prepared = prepare_run(config, tokenizer)
    data = config.data
    collator = replace(prepared.collator, marks_sources=True)
    if not isinstance(prepared.train, PackDataset):
        raise DataError(
            "training rows that are streamed have no end to be judged up to", "Judge on `--split validation`."
        )
    yield Rows("training", prepared.train, collator, prepared.sources)
    if prepared.validation is not None:
        tests = name_sources([entry.path for entry in data.test_datasets])
        yield Rows("validation", prepared.validation, collator, tests or prepared.sources)


def _prepare_tests(config: Config, tokenizer: Any) -> Rows:
    data, packing = config.data, config.packing
    formats = config.preference.formats
    preparation = Preparation(tokenizer, config.tokenizer, data, config.batch.seed, formats=formats)
    parts = [prepare_entry(entry, preparation, data.eval_tokens) for entry in data.test_datasets]
    group = preparation.group
    table = JoinedTable(tuple(part.table for part in parts), group)
    lines = [text for part in parts for text in part.lines]
    if preparation.judges:
        table, line = match_tests(table, data, preparation.seed)
        lines.append(line)
    packs, line = pack_validation((table, np.arange(len(table))), packing, group * data.eval_tokens)
    for text in (*lines, line):
        note(text)
    for text in (text for part in parts for text in part.counts.warnings()):
        warn(text)
    collator = choose_collator(preparation, packing, flatten=config.flattens_batches)
    collator = replace(collator, shortest=max(1, config.attention.shortest_row), marks_sources=True)
    return Rows("validation", packs, collator, name_sources([entry.path for entry in data.test_datasets]))
