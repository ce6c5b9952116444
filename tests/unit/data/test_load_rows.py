"""Rows in their files: read in any order, from several processes, without ever being in memory together."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.load import Source, load_rows
from siredon.data.rows import Joined, Rows, Spooled, join_rows, select_rows, spool_rows
from siredon.data.scratch import Scratch, _remove


def load(path: Path, **keys: Any) -> Rows:
    rows = load_rows(DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys})).rows
    assert isinstance(rows, Rows)
    return rows


def write(path: Path, count: int, size: int = 1) -> list[dict[str, Any]]:
    rows = [{"n": number, "text": "x" * (number % 7 * size)} for number in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return rows


def write_parquet(path: Path, count: int) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"n": number} for number in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=300)
    return rows


@pytest.fixture(params=["lines", "spooled", "parquet", "joined", "selected", "dataset"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Rows, list[Any]]:
    expected = write(tmp_path / "r.jsonl", 2_500, 40)
    rows = load(tmp_path / "r.jsonl")
    if request.param == "spooled":
        return spool_rows(rows), expected
    if request.param == "parquet":
        expected = write_parquet(tmp_path / "r.parquet", 2_500)
        return load(tmp_path / "r.parquet"), expected
    if request.param == "joined":
        other = write_parquet(tmp_path / "r.parquet", 700)
        parts = [rows, Joined(()), load(tmp_path / "r.parquet"), rows]
        return join_rows(parts), [*expected, *other, *expected]
    if request.param == "selected":
        order = np.random.default_rng(0).permutation(2_500)[:1_700]
        return select_rows(rows, order), [expected[number] for number in order]
    if request.param == "dataset":
        import datasets

        from siredon.data.arrow_rows import DatasetRows

        return DatasetRows(datasets.Dataset.from_list(expected), "x"), expected
    return rows, expected


def test_rows_behave_as_a_list_does(case: tuple[Rows, list[Any]]):
    rows, expected = case
    assert len(rows) == len(expected)
    assert list(rows) == expected
    for number in (0, 1, 1_234, len(expected) - 1, -1, -len(expected)):
        assert rows[number] == expected[number]
    for part in (slice(5), slice(-5, None), slice(10, 2_000, 7), slice(None, None, -1), slice(3, 3)):
        assert list(rows[part]) == expected[part]
    with pytest.raises(IndexError):
        rows[len(expected)]


def test_any_order_is_read_in_that_order(case: tuple[Rows, list[Any]]):
    rows, expected = case
    generator = np.random.default_rng(1)
    for order in (
        generator.permutation(len(expected)),
        np.sort(generator.choice(len(expected), 50, replace=False)),
        generator.integers(0, len(expected), 1_500),
        np.array([], np.int64),
    ):
        chosen = select_rows(rows, order)
        assert list(chosen) == [expected[number] for number in order]
        again = select_rows(chosen, np.arange(len(chosen))[::-1])
        assert list(again) == [expected[number] for number in order[::-1]]


def test_rows_and_their_temporary_files_may_go_to_another_process(case: tuple[Rows, list[Any]]):
    rows, expected = case
    copy = pickle.loads(pickle.dumps(rows))
    assert list(copy) == expected
    del copy
    assert rows[1_234] == expected[1_234]


def read_row(rows: Rows, number: int, results: Any) -> None:
    results.put(rows[number])


def test_a_forked_process_reads_and_leaves_the_files(tmp_path: Path):
    write(tmp_path / "r.jsonl", 10)
    rows = spool_rows(load(tmp_path / "r.jsonl"))
    assert isinstance(rows, Spooled)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=read_row, args=(rows, 7, results))
    process.start()
    assert results.get(timeout=20) == rows[7]
    process.join()
    assert rows.file.exists()


def test_only_the_process_that_made_a_temporary_folder_removes_it():
    scratch = Scratch()
    _remove(scratch.path, os.getpid() + 1)
    assert scratch.path.is_dir()
    _remove(scratch.path, os.getpid())
    assert not scratch.path.exists()


def test_a_parquet_file_is_only_written_down_if_its_rows_are_in_disorder(tmp_path: Path):
    write_parquet(tmp_path / "r.parquet", 900)
    rows = load(tmp_path / "r.parquet")
    assert not isinstance(select_rows(rows, np.arange(100, 200)).rows, Spooled)  # type: ignore[attr-defined]
    chosen = select_rows(rows, np.array([5, 3]))
    assert isinstance(chosen.rows, Spooled)  # type: ignore[attr-defined]
    assert len(chosen.rows) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.parquet"])
def test_the_rows_are_never_in_memory_together(tmp_path: Path, name: str):
    import pyarrow.csv
    import pyarrow.parquet

    rows = write(tmp_path / "r.jsonl", 3_000, 800)
    (tmp_path / "r.json").write_text(json.dumps(rows, indent=1))
    if name in ("r.csv", "r.parquet"):
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.csv.write_csv(table, tmp_path / "r.csv")
        pyarrow.parquet.write_table(table, tmp_path / "r.parquet", row_group_size=1_000)
    del rows
    load(tmp_path / name)  # What is imported now is not counted
    tracemalloc.start()
    count = sum(len(row) for row in load(tmp_path / name))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 6_000
    assert peak < 4.5e6  # Of 7.2 MB of text; Parquet is read 1,000 rows at a time, the others 1 MB


def test_a_source_of_plain_rows_has_places_too():
    assert Source("x", [{"a": 1}]).place(0) == "x: row 1"
