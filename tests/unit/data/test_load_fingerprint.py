"""What the cache of prepared data goes by: everything that decides the rows, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.load import fingerprint_entry
from siredon.errors import DataError


def fingerprint(path: Path | str, seed: int = 42, **keys: Any) -> str:
    found = fingerprint_entry(
        DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys}), seed
    )
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        (folder / name).write_text(json.dumps({"n": name}) + "\n")
    return folder


def test_the_bytes_of_a_file_decide_not_its_date_or_folder(folder: Path, tmp_path: Path):
    first = fingerprint(folder / "a.jsonl")
    os.utime(folder / "a.jsonl", (1, 1))
    assert fingerprint(folder / "a.jsonl") == first
    (tmp_path / "a.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    assert fingerprint(tmp_path / "a.jsonl") == first
    (folder / "a.jsonl").write_text('{"n": "b.jsonl"}\n')
    assert fingerprint(folder / "a.jsonl") != first


def test_names_and_bytes_of_the_files_of_a_folder_decide(folder: Path):
    seen = {fingerprint(folder)}
    (folder / "a.jsonl").write_text("{}")
    seen.add(fingerprint(folder))
    (folder / "c.csv").rename(folder / "d.csv")
    seen.add(fingerprint(folder))
    (folder / "e.jsonl").write_text("")
    seen.add(fingerprint(folder))
    assert len(seen) == 4
    (folder / ".hidden.jsonl").write_text("{}")
    assert fingerprint(folder) in seen


def test_bytes_that_move_from_one_file_to_the_next_are_seen(folder: Path):
    (folder / "a.jsonl").write_text("12")
    (folder / "b.jsonl").write_text("3")
    first = fingerprint(folder)
    (folder / "a.jsonl").write_text("1")
    (folder / "b.jsonl").write_text("23")
    assert fingerprint(folder) != first


def test_files_that_are_not_chosen_do_not_decide(folder: Path):
    first = fingerprint(folder, data_files="a.jsonl")
    (folder / "b.jsonl").write_text("{}")
    assert fingerprint(folder, data_files="a.jsonl") == first
    named = fingerprint("json", data_files=str(folder / "a.jsonl"))
    (folder / "a.jsonl").write_text("{}")
    assert fingerprint(folder, data_files="a.jsonl") != first
    assert fingerprint("json", data_files=str(folder / "a.jsonl")) != named


def test_the_seed_decides_only_where_an_order_is_drawn(folder: Path):
    path = folder / "a.jsonl"
    assert fingerprint(path, 1) == fingerprint(path, 2)
    assert fingerprint(path, 1, shuffle=True) != fingerprint(path, 2, shuffle=True)
    assert fingerprint(path, 1, shards=1) != fingerprint(path, 2, shards=1)


def test_a_changed_function_changes_the_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "to_fingerprint.py"
    seen = {fingerprint(folder), fingerprint(folder, input_transform="no_such_module.f")}
    for text in ("def f(row): return row", "def f(row): return None"):
        module.write_text(text)
        seen.add(fingerprint(folder, input_transform="to_fingerprint.f"))
    assert len(seen) == 4


def test_a_hub_data_set_is_known_only_after_loading():
    assert fingerprint_entry(DatasetEntry.model_validate({"path": "owner/name", "type": "alpaca"})) is None


def test_a_missing_file_is_an_error_here_too(folder: Path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        fingerprint(folder / "none.jsonl")
    with pytest.raises(DataError, match="holds no file that matches"):
        fingerprint(folder, data_files="*.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may read every file")
def test_a_file_that_may_not_be_read_is_named(folder: Path):
    (folder / "a.jsonl").chmod(0)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        fingerprint(folder)
