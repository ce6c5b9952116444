"""Temporary files that live as long as the rows in them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from siredon.errors import DataError

#: Text shrinks to a tenth, repeated text to a hundredth; a bomb to a thousandth and less.
MAX_RATIO = 200
#: Up to here it does no harm.
FREE_BYTES = 100_000_000
#: Packed files inside of packed files: an archive may hold a copy of itself.
MAX_LAYERS = 4
MAX_MEMBERS = 100_000

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
                f"{label}: {show_bytes(num_bytes)} do not fit into {self.path.parent}, "
                f"which has {show_bytes(free)} left",
                _FIX,
            )


@dataclass
class Allowance:
    """What one packed file may come to, with all that is packed inside of it.

    Args:
        packed_bytes: Its size as it is.
        num_bytes: Bytes that were unpacked from it.
        num_members: Files that were unpacked from it.
    """

    packed_bytes: int
    num_bytes: int = 0
    num_members: int = 0

    @property
    def most_bytes(self) -> int:
        """How many bytes may come of it."""
        return max(FREE_BYTES, MAX_RATIO * self.packed_bytes)

    def find_excess(self, more_bytes: int = 0, more_members: int = 0) -> str:
        """Why no more may be unpacked; empty if it may.

        Args:
            more_bytes: Bytes that are to come.
            more_members: Files that are to come.
        """
        if self.num_members + more_members > MAX_MEMBERS:
            return f"holds over {MAX_MEMBERS:,} files"
        if self.num_bytes + more_bytes > self.most_bytes:
            return f"comes to over {MAX_RATIO} times its size, and over {show_bytes(FREE_BYTES)}"
        return ""


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


def show_bytes(number: float) -> str:
    """For people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
