"""Temporary files that live as long as the rows in them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siredon.errors import DataError

_FIX = "Set the environment variable TMPDIR to a folder on a disk with more room."


class Scratch:
    """A temporary folder, removed with the last thing that holds it, or at the end of the process.

    A copy in another process, made by pickle, uses the folder and does not remove it.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="siredon-"))
        weakref.finalize(self, _remove, self.path, os.getpid())
        self._num_files = 0

    def new_file(self, name: str) -> Path:
        """A place for one more file, in a folder of its own."""
        self._num_files += 1
        folder = self.path / str(self._num_files)
        folder.mkdir()
        return folder / (Path(name).name or "file")

    def check_room(self, num_bytes: int, label: str) -> None:
        """Stops before a file that cannot fit.

        Raises:
            DataError: Fewer bytes are free.
        """
        free = shutil.disk_usage(self.path).free
        if num_bytes > free:
            raise DataError(
                f"{label}: {_show_bytes(num_bytes)} do not fit into {self.path.parent}, "
                f"which has {_show_bytes(free)} left",
                _FIX,
            )


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # A fork has the object too, and may end before its parent
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def report_full_disk(label: str) -> Iterator[None]:
    """Turns the error of a disk that is full into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"{label}: no room is left in {tempfile.gettempdir()}", _FIX) from error


def _show_bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
