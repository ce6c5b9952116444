"""Rows that are read while training."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_useless_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.loader import LoaderSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.streaming import StreamingSection


def find_stream_key(streaming: StreamingSection) -> str | None:
    """The key because of which rows are streamed, if any."""
    if streaming.pretraining_dataset:
        return "pretraining_dataset"
    return "streaming" if streaming.streaming else None


def _check_length(streaming: StreamingSection, batch: BatchSection) -> Iterator[Finding]:
    """A run over streamed rows has a length.

    Nobody has counted a stream, so the run cannot be measured in epochs, nor the learning rate planned.
    """
    cause = find_stream_key(streaming)
    if cause and batch.max_steps is None:
        yield Finding(
            cause,
            f"`{cause}` needs `max_steps`: a stream has no known end",
            "Add `max_steps: 1000`, for example.",
        )


def _check_held_out(streaming: StreamingSection, data: DataSection) -> Iterator[Finding]:
    """Validation rows are not taken from a stream.

    `val_set_size` is a part of all rows, and a stream is never there as a whole.
    """
    cause = find_stream_key(streaming)
    if cause and data.val_set_size:
        yield Finding(
            "val_set_size",
            f"`val_set_size` cannot hold out rows of a stream (`{cause}`)",
            "Set `val_set_size: 0`, and name validation rows under `test_datasets`.",
        )


def _check_grouping(streaming: StreamingSection, packing: PackingSection) -> Iterator[Finding]:
    """Streamed rows are not grouped by length.

    The lengths are known only as the rows arrive.
    """
    cause = find_stream_key(streaming)
    if cause and packing.group_by_length:
        yield Finding(
            "group_by_length",
            f"`group_by_length` has no effect with `{cause}`: lengths are not known ahead",
            "Remove `group_by_length`.",
            "warning",
        )


def _check_fetching(streaming: StreamingSection, loader: LoaderSection) -> Iterator[Finding]:
    """A stream is read by the run itself.

    Fetching processes would each read the whole stream, and the checkpoint would not know how far each has come.
    """
    cause = find_stream_key(streaming)
    if cause and loader.dataloader_num_workers:
        yield Finding(
            "dataloader_num_workers",
            f"`dataloader_num_workers: {loader.dataloader_num_workers}` cannot share a stream (`{cause}`)",
            "Remove `dataloader_num_workers`: each process would read the whole stream.",
        )


def _check_counting(streaming: StreamingSection, logging: LoggingSection) -> Iterator[Finding]:
    """The tokens of a pretraining stream are not counted ahead.

    `include_tokens_per_second` goes through all rows before training begins.
    """
    if streaming.pretraining_dataset and logging.include_tokens_per_second:
        yield Finding(
            "include_tokens_per_second",
            "`include_tokens_per_second` cannot count the tokens of `pretraining_dataset` ahead",
            "Remove it; `include_tkps` logs a rate that needs no count.",
        )


def _check_settings(streaming: StreamingSection, packing: PackingSection) -> Iterator[Finding]:
    """Settings of streaming come with the stream that they are for.

    `pretrain_multipack_attn` is for packed pretraining, `pretraining_sample_concatenation` for pretraining that
    is not packed: packs of other data are always isolated, and joined by the packer.
    """
    pretrains, packs = bool(streaming.pretraining_dataset), packing.sample_packing
    homes = (
        ("streaming_multipack_buffer_size", bool(find_stream_key(streaming)), "streamed rows"),
        ("pretrain_multipack_attn", pretrains and packs, "`pretraining_dataset` with `sample_packing: true`"),
        (
            "pretraining_sample_concatenation",
            pretrains and not packs,
            "`pretraining_dataset` without `sample_packing`",
        ),
    )
    for name, applies, home in homes:
        if not applies:
            yield from find_useless_keys(streaming, (name,), f"here: it is for {home}")


def _check_weights(streaming: StreamingSection, data: DataSection) -> Iterator[Finding]:
    """All sources of a stream have a weight, or none has.

    A source without one counts by its rows, which are no measure for the weights of others; entries of `datasets`
    have none.
    """
    entries = streaming.pretraining_dataset or ()
    weighted = [index for index, entry in enumerate(entries) if entry.weight is not None]
    if weighted and (len(weighted) < len(entries) or data.datasets):
        without = "`datasets`" if len(weighted) == len(entries) else "another entry"
        yield Finding(
            f"pretraining_dataset.{weighted[0]}.weight",
            f"`weight` is set here, and {without} beside it has none",
            "Give every source a weight under `pretraining_dataset`, or none: then each counts by its rows.",
        )


_STREAM = "pretraining_dataset:\n  - path: texts.jsonl\nmax_steps: 1000\n"

RULES = (
    Rule(
        "SD0209",
        _check_length,
        wrong="streaming: true\nnum_epochs: 1",
        right="streaming: true\nmax_steps: 1000",
    ),
    Rule(
        "SD0210",
        _check_held_out,
        wrong="streaming: true\nmax_steps: 1000\nval_set_size: 0.1",
        right="streaming: true\nmax_steps: 1000\ntest_datasets:\n  - path: held_out.jsonl\n    type: alpaca",
    ),
    Rule(
        "SD0211",
        _check_grouping,
        wrong="streaming: true\nmax_steps: 1000\ngroup_by_length: true",
        right="group_by_length: true",
    ),
    Rule(
        "SD0212",
        _check_counting,
        wrong=_STREAM + "include_tokens_per_second: true",
        right=_STREAM + "include_tkps: true",
    ),
    Rule(
        "SD0213",
        _check_settings,
        wrong="sample_packing: true\nstreaming_multipack_buffer_size: 20000",
        right="sample_packing: true\nstreaming_multipack_buffer_size: 20000\nstreaming: true\nmax_steps: 1000",
    ),
    Rule(
        "SD0275",
        _check_weights,
        wrong="max_steps: 1000\npretraining_dataset:\n  - path: a.jsonl\n    weight: 2\n  - path: b.jsonl",
        right="max_steps: 1000\npretraining_dataset:\n  - path: a.jsonl\n  - path: b.jsonl",
    ),
    Rule(
        "SD0780",
        _check_fetching,
        wrong="streaming: true\nmax_steps: 1000\ndataloader_num_workers: 2",
        right="dataloader_num_workers: 2",
    ),
)
