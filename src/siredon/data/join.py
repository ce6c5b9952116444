"""Documents end to end, without borders between them: text for a model that is to read on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from siredon.data.types import IGNORE, Ids, Sample

#: Tokens that wait for more.
EMPTY = Sample(np.zeros(0, np.int32), np.zeros(0, np.int32))


def join_samples(samples: Iterable[Sample]) -> Sample:
    """One sample of several; the first token of each but the first is predicted by the last of the one before.

    It is learned where the token after it is: a text that is learned is learned from its beginning.
    """
    parts = list(samples)
    labels = [_learn_first(sample) for sample in parts]
    return Sample(_join([sample.input_ids for sample in parts]), _hide_first(_join(labels)))


def cut_windows(carry: Sample, samples: Iterable[Sample], length: int) -> tuple[list[Sample], Sample]:
    """Full windows of joined samples, and what is left for the next ones.

    Args:
        carry: What was left before; its first token has its label still.
        samples: The samples that follow.
        length: Tokens per window.
    """
    parts = list(samples)
    ids = _join([carry.input_ids, *(sample.input_ids for sample in parts)])
    labels = _join([carry.labels, *(_learn_first(sample) for sample in parts)])
    end = len(ids) // length * length
    windows = [
        Sample(ids[start : start + length], _hide_first(labels[start : start + length]))
        for start in range(0, end, length)
    ]
    return windows, Sample(ids[end:].copy(), labels[end:].copy())


def close_window(carry: Sample) -> list[Sample]:
    """What is left when there is no more; none if nothing in it can be learned."""
    last = Sample(carry.input_ids, _hide_first(carry.labels))
    return [last] if last.num_targets else []


def _learn_first(sample: Sample) -> Ids:
    labels = sample.labels.copy()
    if len(labels) > 1 and labels[1] != IGNORE:
        labels[0] = sample.input_ids[0]
    return labels


def _hide_first(labels: Ids) -> Ids:
    """Nothing predicts the first token of a sequence."""
    hidden = labels.copy()
    hidden[:1] = IGNORE
    return hidden


def _join(parts: Sequence[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
