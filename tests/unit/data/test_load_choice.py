"""Which rows are used: splits and slices, shuffles and parts as `datasets` has them, and the user's function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.load import Source, load_rows, split_pieces
from siredon.data.row_choice import read_split
from siredon.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps({"n": number}) for number in range(103)))
    return tmp_path / "r.jsonl"


def load(path: Path, seed: int = 42, **keys: Any) -> Source:
    return load_rows(entry(path, **keys), seed)


def entry(path: Path, **keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys})


def numbers(path: Path, seed: int = 42, **keys: Any) -> list[int]:
    return [row["n"] for row in load(path, seed, **keys).rows]


# Splits

SPLITS = [
    "train",
    "train[:10]",
    "train[100:]",
    "train[10:20]",
    "train[-10:]",
    "train[:-100]",
    "train[-200:5]",
    "train[50:500]",
    "train[:10%]",
    "train[10%:]",
    "train[33%:67%]",
    "train[-20%:]",
    "train[:1%]",
    "train[:]",
    "train[:1_0]",
    "train[1%:2%](closest)",
    "train[50%:52%](pct1_dropremainder)",
    "train[:3]+train[2:5]",
    "train[90:]+train[:10%]",
    "train+train",
    "all",
]


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_means_what_it_means_to_datasets(path: Path, tmp_path: Path, split: str):
    import datasets

    expected = datasets.load_dataset(
        "json", data_files=str(path), split=split, cache_dir=str(tmp_path / "cache")
    )
    assert numbers(path, split=split) == list(expected["n"])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[", "is no split"),
        ("train[10]", "is no split"),
        ("train[a:b]", "is no split"),
        ("train[:10%](up)", "is no split"),
        ("", "is no split"),
        ("train+", "is no split"),
        ("train[1%:5]", "mixes rows and per cent"),
        ("train[:101%]", "goes over 100 %"),
        ("dev", "there is no split `dev`"),
        ("train[5:5]", "has no rows"),
        ("train[60:40]", "has no rows"),
    ],
)
def test_a_split_that_means_nothing_is_refused(path: Path, split: str, message: str):
    with pytest.raises(DataError, match=message):
        load(path, split=split)


def test_no_split_is_read_in_two_ways():
    (one,) = read_split("train[-5%:](pct1_dropremainder)", "x")
    assert read_split("a + b[1:]", "x") == read_split("a+b[1:]", "x")
    assert (one.split, one.start, one.stop, one.percent, one.whole) == ("train", -5, None, True, True)


# Order and number


def test_the_shuffle_is_that_of_datasets_and_seeded(path: Path):
    import datasets

    rows = datasets.Dataset.from_list([{"n": number} for number in range(103)])
    assert numbers(path, shuffle=True) == list(rows.shuffle(seed=42)["n"])
    assert numbers(path, 7, shuffle=True) == list(rows.shuffle(seed=7)["n"])
    assert numbers(path, 7) == list(range(103))


@pytest.mark.parametrize(("shards", "number"), [(1, None), (4, None), (4, 0), (4, 3), (103, 50)])
def test_the_parts_are_those_of_datasets(path: Path, shards: int, number: int | None):
    import datasets

    rows = datasets.Dataset.from_list([{"n": n} for n in range(103)]).shuffle(seed=42)
    expected = rows.shard(shards, number or 0, contiguous=True)["n"]
    keys = {"shards": shards} if number is None else {"shards": shards, "shards_idx": number}
    assert numbers(path, **keys) == list(expected)


def test_the_parts_share_the_rows(path: Path):
    parts = [numbers(path, shards=4, shards_idx=number) for number in range(4)]
    assert sorted(number for part in parts for number in part) == list(range(103))
    with pytest.raises(DataError, match="`shards: 104` are more parts than the 103 rows"):
        load(path, shards=104)


def test_at_most_so_many_rows_are_used(path: Path):
    assert numbers(path, max_samples=5) == [0, 1, 2, 3, 4]
    assert numbers(path, max_samples=500) == list(range(103))
    assert numbers(path, max_samples=5, shuffle=True) == numbers(path, shuffle=True)[:5]
    assert numbers(path, max_samples=5, shards=4, shards_idx=1) == numbers(path, shards=4, shards_idx=1)[:5]
    assert numbers(path, max_samples=5, split="train[10:20]") == [10, 11, 12, 13, 14]


def test_the_place_of_a_row_is_that_in_the_file_whatever_was_chosen(path: Path):
    source = load(path, shuffle=True, split="train[50:]", max_samples=9)
    for number, row in enumerate(source.rows):
        assert source.place(number) == f"{path}: row {row['n'] + 1}"


@pytest.mark.parametrize("count", [None, 1, 4, 200])
def test_pieces_are_all_rows_in_order(path: Path, count: int | None):
    chosen = entry(path, shuffle=True, **({"preprocess_shards": count} if count else {}))
    source = load_rows(chosen)
    pieces = list(split_pieces(source, chosen))
    assert len(pieces) == min(count or 1, 103)
    assert [row for _, piece in pieces for row in piece.rows] == list(source.rows)
    for start, piece in pieces:
        assert piece.place(0) == source.place(start)


@pytest.mark.parametrize(
    "keys", [{"shards": 0}, {"shards_idx": -1}, {"max_samples": 0}, {"preprocess_shards": 0}, {"weight": 0}]
)
def test_numbers_that_mean_nothing_are_no_values(path: Path, keys: dict[str, Any]):
    with pytest.raises(ValueError, match="greater than"):
        entry(path, **keys)


# The user's function

MODULE = """
def double(row):
    row["n"] *= 2
    return row

def odd(row):
    return row if row["n"] % 2 else None

def none(row):
    return None

def number(row):
    return row["n"]

def fail(row):
    if row["n"] == 3:
        raise KeyError("x")

constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"changes_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_a_function_changes_rows_and_leaves_some_out(path: Path, module: str):
    before = list(sys.path)
    assert numbers(path, input_transform=f"{module}.double") == list(range(0, 206, 2))
    source = load(path, input_transform=f"{module}.odd", max_samples=5)
    assert [row["n"] for row in source.rows] == [1, 3, 5, 7, 9]
    assert len(source.rows) == 5
    assert source.rows[4] == {"n": 9}
    assert source.place(4) == f"{path}: row 10"
    assert numbers(path, input_transform=f"{module}.odd", shuffle=True) == [
        number for number in numbers(path, shuffle=True) if number % 2
    ]
    assert sys.path == before


def test_a_module_alone_means_its_function_of_that_name(path: Path, module: str, tmp_path: Path):
    (tmp_path / "whole_module.py").write_text("def transform(row):\n    return {'n': -row['n']}\n")
    assert numbers(path, input_transform="whole_module", max_samples=3) == [0, -1, -2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", r"r\.jsonl: row 4: `\w+\.fail` raised KeyError: 'x'"),
        ("number", r"r\.jsonl: row 1: `\w+\.number` returned int, not a row"),
        ("none", "left no row"),
        ("missing", "has no function `missing`"),
        ("constant", "`constant` is no function"),
    ],
)
def test_a_function_that_fails_is_named_with_the_row(path: Path, module: str, name: str, message: str):
    with pytest.raises(DataError, match=message):
        load(path, input_transform=f"{module}.{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module.f", "no module `no_such_module`"),
        ("word", "no module `word`"),
        (".f", "no dotted path"),
    ],
)
def test_a_path_without_a_module_is_refused(path: Path, name: str, message: str):
    with pytest.raises(DataError, match=message):
        load(path, input_transform=name)


def test_a_module_that_cannot_be_imported_is_named(path: Path, module: str, tmp_path: Path):
    (tmp_path / "broken_changes.py").write_text("1 / 0\ndef f(row):\n    return row\n")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        load(path, input_transform="broken_changes.f")
