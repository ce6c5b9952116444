"""What a rollback keeps, and what it deletes."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from siredon.train.publish import BEST, LATEST, point
from siredon.train.rollback import (
    Rewind,
    RolledBack,
    Window,
    drop_later,
    read_windows,
    run_with_rollbacks,
    write_windows,
)

WINDOWS = (Window(4, 5, 3, "the loss is a spike"), Window(9, 9, 6, "the gradient is not finite"))


class Heavy:
    """Hangs in a cycle, as a model and its hooks do."""

    def __init__(self) -> None:
        self.itself = self


def test_an_attempt_begins_where_the_one_before_sends_it_with_nothing_of_it_left():
    found: list[tuple[Rewind, list[bool]]] = []
    held: list[weakref.ref[Heavy]] = []

    def attempt(rewind: Rewind) -> None:
        found.append((rewind, [reference() is not None for reference in held]))
        heavy = Heavy()
        held.append(weakref.ref(heavy))
        if len(found) < 3:
            raise RolledBack(Rewind(True, Path(f"checkpoint-{len(found)}"), WINDOWS[: len(found)]))

    run_with_rollbacks(attempt)
    assert [rewind.folder for rewind, _ in found] == [None, Path("checkpoint-1"), Path("checkpoint-2")]
    assert [len(rewind.windows) for rewind, _ in found] == [0, 1, 2]
    assert [alive for _, alive in found] == [[], [False], [False, False]]


def test_the_list_of_windows_is_read_as_it_was_written(tmp_path: Path, capsys: Any):
    assert read_windows(tmp_path) == ()
    write_windows(tmp_path, WINDOWS)
    assert read_windows(tmp_path) == WINDOWS
    path = tmp_path / "bad_steps/skipped.json"
    path.write_text(path.read_text()[:40])
    assert read_windows(tmp_path) == ()
    assert "skipped.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("back_to", [2, 0])
def test_no_link_leads_to_a_checkpoint_that_was_deleted(tmp_path: Path, back_to: int):
    for step in (2, 4, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    point(tmp_path, LATEST, tmp_path / "checkpoint-6")
    point(tmp_path, BEST, tmp_path / "checkpoint-4")
    folder = tmp_path / "checkpoint-2" if back_to else None
    drop_later(tmp_path, [step for step in (2, 4, 6) if step > back_to], folder)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == (["checkpoint-2", LATEST] if back_to else [])
    assert not back_to or (tmp_path / LATEST).resolve() == folder
