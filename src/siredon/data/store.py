"""Where the files of a data set are: on this machine, on a web server, or in a cloud's bucket."""

from __future__ import annotations

import difflib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from siredon.data.file_rows import TextFile
from siredon.data.files import list_files
from siredon.data.folder import match_names
from siredon.data.scratch import Scratch
from siredon.errors import DataError

_BLOCK_BYTES = 1 << 20


def has_scheme(path: str) -> bool:
    """Whether a path is an address such as `s3://bucket/rows.jsonl`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


class Store(ABC):
    """Files of a data set.

    Args:
        label: How messages call it.
        names: The files, as paths inside the folder; a single file is its own name.
        is_folder: Whether it is a folder.
        digests: Hashes of the files that were fetched from elsewhere.
    """

    label: str
    names: Sequence[str]
    is_folder: bool
    digests: dict[str, str]

    @abstractmethod
    def fetch(self, name: str) -> TextFile:
        """One of the files, on this machine.

        Raises:
            DataError: It cannot be had.
        """

    @abstractmethod
    def fetch_all(self) -> tuple[Path, Scratch | None]:
        """All files in one folder on this machine, and what keeps it there, if it is a temporary one.

        Raises:
            DataError: They cannot be had.
        """

    @abstractmethod
    def fingerprint(self, names: Sequence[str]) -> str | None:
        """What changes when one of these files does; None if only reading them would tell."""

    def file_label(self, name: str) -> str:
        """How messages call one of the files."""
        return f"{self.label.rstrip('/')}/{name}" if self.is_folder else self.label

    def choose_names(self, patterns: Sequence[str]) -> Sequence[str]:
        """The files that `data_files` names; all without it.

        Raises:
            DataError: There is none.
        """
        chosen = match_names(self.names, patterns) if patterns and self.is_folder else self.names
        if not chosen:
            wanted = f" that matches {', '.join(patterns)}" if patterns else ""
            raise DataError(
                f"{self.label}: the folder holds no file{wanted}", "Check `path` and `data_files`."
            )
        return chosen


class LocalStore(Store):
    """A file or folder on this machine.

    Args:
        path: Where it is.
        label: How messages call it.
        unpacked: The folder, if it was an archive.
    """

    def __init__(self, path: Path, label: str, unpacked: TextFile | None = None) -> None:
        self.path, self.label, self.is_folder = path, label, path.is_dir()
        self.unpacked, self.digests = unpacked, {}
        self.names = list_files(path) if self.is_folder else [path.name]

    def fetch(self, name: str) -> TextFile:
        """The file where it is."""
        file = TextFile(self._path(name), self.file_label(name))
        return replace(self.unpacked, path=file.path, label=file.label) if self.unpacked else file

    def fetch_all(self) -> tuple[Path, Scratch | None]:
        """The folder itself."""
        return self.path, self.unpacked.scratch if self.unpacked else None

    def fingerprint(self, names: Sequence[str]) -> str:
        """A hash of names and bytes."""
        digest = hashlib.sha256()
        for name in names:
            path = self._path(name)
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def choose_names(self, patterns: Sequence[str]) -> Sequence[str]:
        """The files that `data_files` names, from the folder or from where the program was started."""
        inside = [pattern.removeprefix(f"{self.label.rstrip('/')}/") for pattern in patterns]
        return super().choose_names(inside)

    def _path(self, name: str) -> Path:
        return self.path / name if self.is_folder else self.path


def copy_hashed(source: IO[bytes], target: Path) -> tuple[int, str]:
    """Copies a file that comes from elsewhere; returns its bytes, and their hash."""
    digest, received = hashlib.sha256(), 0
    with target.open("wb") as out:
        while block := source.read(_BLOCK_BYTES):
            out.write(block)
            digest.update(block)
            received += len(block)
    return received, digest.hexdigest()


def suggest_file(name: str) -> str:
    """`Did you mean ...? ` for a file with nearly that name in the same folder, or nothing."""
    folder = Path(name).expanduser().parent
    if not folder.is_dir():
        return f"There is no folder {folder} either. "
    near = difflib.get_close_matches(Path(name).name, [path.name for path in folder.iterdir()], n=1)
    return f"Did you mean {folder / near[0]}? " if near else ""
