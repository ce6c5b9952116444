"""Which samples are trained, and which are held out: no sample twice where that is asked, none on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siredon.config.sections.data import DataSection
from siredon.data.table import JoinedTable, find_repeated, find_shared
from siredon.errors import DataError

Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices of samples, in the order in which they are used.

    Args:
        train: Samples to learn from.
        validation: Samples to measure on; None for none.
        lines: What was left out, for people.
        warnings: What a user should know before training.
    """

    train: Order
    validation: Order | None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def split_samples(table: JoinedTable, data: DataSection, seed: int, *, keeps_order: bool = False) -> Split:
    """Shuffles the training samples by `seed`, drops repeated ones if asked, and holds out `val_set_size`.

    Args:
        table: All training samples.
        data: What is asked for.
        seed: Seed of the shuffle.
        keeps_order: Nothing is shuffled, whatever else is asked for.
    """
    order = np.arange(len(table)) if keeps_order else _shuffle(table, data, seed)
    lines: list[str] = []
    if data.dataset_exact_deduplication:
        repeated = find_repeated(table.digests, order)
        order = order[~repeated]
        if repeated.any():
            lines.append(f"  {int(repeated.sum()):,} samples dropped: equal to another")
    if data.is_mixed:
        order = _spread(table, order)
    if not data.val_set_size:
        return Split(order, None, tuple(lines))
    train, held_out = _hold_out(table, order, data)
    held_out, line = _keep_short(table, held_out, data)
    return Split(train, held_out, (*lines, *line))


def compare_sides(train: JoinedTable, validation: JoinedTable) -> tuple[str, ...]:
    """A warning if validation samples that stand in files of their own are trained on too."""
    digests = np.concatenate([train.digests, validation.digests])
    ours, theirs = np.arange(len(train)), np.arange(len(train), len(digests))
    shared = int(find_shared(digests, theirs, ours).sum())
    if not shared:
        return ()
    return (f"{shared:,} of {len(validation):,} validation samples are in the training data too",)


def _shuffle(table: JoinedTable, data: DataSection, seed: int) -> Order:
    generator = np.random.default_rng(seed)
    total = len(table)
    if data.shuffle_merged_datasets:
        return generator.permutation(total)
    if not data.shuffle_before_merging_datasets:
        return np.arange(total)
    parts, start = [], 0
    for size in np.diff(table.starts).tolist():
        parts.append(start + generator.permutation(size))
        start += size
    return np.concatenate(parts)


def _spread(table: JoinedTable, order: Order) -> Order:
    """The same with the samples of each table spread evenly, so that any end of it has the same part of each."""
    source = table.tables_of(order)
    place = np.empty(len(order))
    for number in range(len(table.tables)):
        own = source == number
        place[own] = (np.arange(own.sum()) + 0.5) / max(1, own.sum())
    return order[np.argsort(place, kind="stable")]


def _hold_out(table: JoinedTable, order: Order, data: DataSection) -> tuple[Order, Order]:
    """The last samples of the order; samples that equal one of them follow it."""
    size = data.val_set_size
    wanted = round(size * len(order)) if size < 1 else int(size)
    if not 0 < wanted < len(order):
        raise DataError(
            f"val_set_size: {size:g} holds out {wanted:,} of {len(order):,} samples",
            "Choose a size that leaves samples on both sides.",
        )
    train, held_out = order[:-wanted], order[-wanted:]
    leaks = find_shared(table.digests, train, held_out)
    if leaks.all():
        raise DataError(
            f"val_set_size: {size:g} leaves nothing to train on: every sample equals one that is held out",
            "Set `dataset_exact_deduplication: true`, or a smaller `val_set_size`.",
        )
    return train[~leaks], np.concatenate([held_out, train[leaks]])


def _keep_short(table: JoinedTable, held_out: Order, data: DataSection) -> tuple[Order, list[str]]:
    """The held-out samples that are no longer than `eval_sequence_len`."""
    fits = table.sample_lengths[held_out].max(axis=1) <= data.eval_tokens
    if fits.all():
        return held_out, []
    if not fits.any():
        raise DataError(
            f"eval_sequence_len: {data.eval_tokens} is shorter than every validation sample", "Raise it."
        )
    return held_out[fits], [f"  {int((~fits).sum()):,} validation samples dropped: over eval_sequence_len"]
