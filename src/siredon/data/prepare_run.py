"""The data of one run, read ahead or as a stream, and what became of its rows, said to the user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from siredon.config.schema import Config
from siredon.data.epochs import build_horizon
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.distributed.ranks import num_ranks
from siredon.log import note, warn


def prepare_run(config: Config, tokenizer: Any) -> Prepared:
    """Prepares the data, or takes it from the cache.

    Several ranks may come here at once: the first prepares, a lock makes the others wait for it.

    Args:
        config: The whole config: data sets, packing, batches, streaming.
        tokenizer: With its special tokens.

    Raises:
        DataError: Rows that cannot be read, rendered, labelled or packed.
    """
    preparation = Preparation(
        tokenizer,
        config.tokenizer,
        config.data,
        config.batch.seed,
        build_horizon(config.batch),
        config.streaming,
        config.preference.formats,
    )
    shared = config.batch.micro_batch_size * num_ranks() if num_ranks() > 1 else 1
    flatten = config.flattens_batches
    if config.streaming.streams:
        # Reading ahead takes no PyTorch; a stream does.
        from siredon.data.prepare_stream import prepare_stream

        prepared = prepare_stream(preparation, config.packing, multiple=shared, flatten=flatten)
    else:
        prepared = prepare_data(preparation, config.packing, multiple=shared, flatten=flatten)
    if config.attention.shortest_row > 1:
        collator = replace(prepared.collator, shortest=config.attention.shortest_row)
        prepared = replace(prepared, collator=collator)
    for line in prepared.lines:
        note(line)
    for line in prepared.warnings:
        warn(line)
    return prepared
