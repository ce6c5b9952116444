"""What is in a data set that was prepared."""

from __future__ import annotations

import numpy as np

from siredon.data.collate import PackDataset
from siredon.data.types import Ids, Sample


def samples_of(dataset: PackDataset) -> list[Sample]:
    """Every sample, pack after pack."""
    return [sample for index in range(len(dataset)) for sample in dataset[index]]


def ids_of(dataset: PackDataset) -> Ids:
    """All ids, one sample after another."""
    return np.concatenate([sample.input_ids for sample in samples_of(dataset)])


def labels_of(dataset: PackDataset) -> Ids:
    """All labels, one sample after another."""
    return np.concatenate([sample.labels for sample in samples_of(dataset)])
