"""A file that is whole or not there; which folders may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siredon.errors import CheckpointError
from siredon.train.publish import DRAFT, MANIFEST


@contextmanager
def file_written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path`; at the end what was written there is on the disk and takes the place of `path`.

    Nothing is left of it if the block raises, and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{path.name}")
    try:
        yield draft
        handle = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_replaceable(folder: Path) -> None:
    """Passes for a folder that is not there, is empty, or was written by an export: it goes as a whole.

    Raises:
        CheckpointError: It holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (
        not (folder / MANIFEST).is_file() or (folder / "siredon.json").exists()
    ):  # The latter is in checkpoints
        raise CheckpointError(
            f"{folder} is there, and not of an export: it would be replaced as a whole",
            "Name a folder that is not there yet with `--output`.",
        )
