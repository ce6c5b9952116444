from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siredon.data import table
from siredon.data.table import TableBuilder, load_table, save_table
from siredon.data.types import IGNORE, Sample


@pytest.mark.parametrize("held", [1, 10, 10**6])
def test_a_table_is_the_same_whether_it_was_held_in_memory_or_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
):
    generator = np.random.default_rng(0)
    samples = []
    for length in generator.integers(1, 9, 20):
        ids = generator.integers(0, 99, length, dtype=np.int32)
        samples.append(Sample(ids, np.where(ids % 2, ids, IGNORE).astype(np.int32)))
    monkeypatch.setattr(table, "MAX_HELD", held)
    builder = TableBuilder(tmp_path)
    for sample in samples:
        builder.add(sample)
    built = builder.build()
    assert isinstance(built.input_ids, np.memmap) == (held < 100)
    assert list(tmp_path.iterdir()) == []
    assert built.num_targets == sum(sample.num_targets for sample in samples)
    save_table(built, tmp_path)
    for found in (built, load_table(tmp_path, built.num_targets)):
        assert len(found) == 20
        for index, sample in enumerate(samples):
            assert (found[index].input_ids == sample.input_ids).all()
            assert (found[index].labels == sample.labels).all()
