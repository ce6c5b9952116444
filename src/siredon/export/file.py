"""A file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siredon.train.publish import DRAFT


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
