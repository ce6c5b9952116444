"""`siredon cache`: what it lists, and that it deletes prepared data and nothing else."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from siredon.cli.app import app
from siredon.data.audit import Counts
from siredon.data.cache import clear_cache, find_clearable, list_cache, load_or_make
from siredon.data.table import build_table
from siredon.data.types import Sample

OLD, NEW = "0" * 24, "ab" * 12


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cache", *(str(argument) for argument in arguments)])


def age(folder: Path, days: float) -> None:
    for path in [folder, *folder.iterdir()] if folder.is_dir() else [folder]:
        os.utime(path, (time.time() - 86_400 * days,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two prepared data sets, one of them ten days old."""
    root = tmp_path / "prepared"
    ids = np.arange(1, 5, dtype=np.int32)
    table = build_table([Sample(ids, ids)] * 3)
    for key, name in ((OLD, "old.jsonl"), (NEW, "new.jsonl")):
        load_or_make(root, key, lambda name=name: (table, Counts(name, 3, 3, 0, 3, 12, 12)))
    age(root / OLD, 10)
    age(root / f"{OLD}.lock", 10)
    return root


@pytest.fixture
def foreign(root: Path) -> list[Path]:
    """Files and folders that look a little like prepared data, and are not."""
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "counts.json").write_text("{}")
    kept = [root / "notes.txt", root / "counts.json", root / "mine.lock", elsewhere / "counts.json"]
    for path in kept:
        path.write_text("{}")
    for folder, name in (
        ("project", "counts.json"),
        (".hidden-1", "input_ids.npy"),
        ("c" * 24, "thesis.txt"),
        ("C" * 24, "counts.json"),
    ):
        (root / folder).mkdir()
        (root / folder / name).write_text("{}")
        kept.append(root / folder / name)
    (root / ("c" * 24) / "counts.json").write_text("{}")
    (root / ("d" * 24)).symlink_to(elsewhere)
    return [*kept, root / ("d" * 24)]


@pytest.fixture
def half(root: Path) -> Path:
    """What a killed run left."""
    folder = root / f".{'e' * 24}-x1y2"
    folder.mkdir()
    (folder / "input_ids.npy").write_bytes(b"\0" * 2048)
    return folder


def test_the_list_names_what_is_there_newest_first(root: Path):
    result = invoke("list", root)
    assert result.exit_code == 0
    head, first, second, total = result.stdout.splitlines()
    assert head.split() == ["key", "source", "samples", "tokens", "size", "age"]
    assert first.split()[:4] == [NEW, "new.jsonl", "3", "12"]
    assert first.split()[-1] == "now"
    assert second.split()[:2] == [OLD, "old.jsonl"]
    assert second.split()[-2:] == ["10", "d"]
    assert total.startswith("2 prepared data sets, ")


def test_the_list_tells_of_what_is_half_written_and_not_of_foreign_files(
    root: Path, half: Path, foreign: list[Path]
):
    result = invoke("list", root)
    assert "1 left half-written by killed runs, 2.0 KiB" in result.stdout
    assert "2 prepared data sets" in result.stdout
    assert "project" not in result.stdout


def test_an_empty_and_a_missing_folder(tmp_path: Path):
    assert "nothing is prepared there" in invoke("list", tmp_path).stdout
    assert "nothing to delete" in invoke("clear", tmp_path, "--yes").stdout
    for command in ("list", "clear"):
        result = invoke(command, tmp_path / "no")
        assert result.exit_code == 1
        assert "there is no such folder" in str(result.exception)


def test_clear_deletes_prepared_data_and_nothing_else(root: Path, half: Path, foreign: list[Path]):
    size = sum(entry.num_bytes for entry in list_cache(root)) + 2048
    result = invoke("clear", root, "--yes")
    assert result.exit_code == 0
    assert "2 prepared data sets and 1 left half-written by killed runs" in result.stdout
    assert f"freed {size / 1024:.1f} KiB" in result.stdout
    assert not half.exists()
    assert list_cache(root) == ()
    assert all(path.exists() for path in foreign)
    assert {path.name for path in root.glob("*.lock")} == {"mine.lock"}


def test_clear_keeps_what_is_younger(root: Path, half: Path):
    result = invoke("clear", root, "--older-than", 3, "--yes")
    assert "1 prepared data set," in result.stdout
    assert [entry.folder.name for entry in list_cache(root)] == [NEW]
    assert half.exists()
    assert not (root / f"{OLD}.lock").exists()
    assert (root / f"{NEW}.lock").exists()


def test_clear_asks_on_a_terminal_and_takes_no_for_an_answer(root: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal:
        """A stdin that says it is a terminal."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return (lambda: True) if name == "isatty" else getattr(self.stream, name)

    from siredon.cli import cache

    class System:
        """`sys`, with such a stdin."""

        @property
        def stdin(self) -> Terminal:
            return Terminal(sys.stdin)

    monkeypatch.setattr(cache, "sys", System())
    arguments = ["cache", "clear", str(root)]
    refused = CliRunner().invoke(app, arguments, input="n\n")
    assert (refused.exit_code, len(list_cache(root))) == (1, 2)
    assert "2 prepared data sets" in refused.stdout
    agreed = CliRunner().invoke(app, arguments, input="y\n")
    assert (agreed.exit_code, len(list_cache(root))) == (0, 0)


def test_clear_without_a_terminal_deletes_nothing_unless_told_to(root: Path):
    result = invoke("clear", root)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert len(list_cache(root)) == 2


def test_clear_leaves_what_a_run_prepares_at_this_moment(root: Path, half: Path):
    with FileLock(str(root / f"{'e' * 24}.lock")), FileLock(str(root / f"{NEW}.lock")):
        assert clear_cache(root) > 0
        assert half.exists()
        assert [entry.folder.name for entry in list_cache(root)] == [NEW]
        assert (root / f"{NEW}.lock").exists()
    assert len(find_clearable(root)) == 2


def test_a_damaged_data_set_is_not_listed_and_can_be_cleared(root: Path):
    (root / NEW / "labels.npy").write_bytes(b"no array")
    assert [entry.folder.name for entry in list_cache(root)] == [OLD]
    clear_cache(root)
    assert not (root / NEW).exists()
