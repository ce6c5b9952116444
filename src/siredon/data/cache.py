"""Prepared samples on disk, under a key of everything that made them.

A folder is written beside its place and published by one rename, so a killed run leaves none that
looks whole; a lock lets one process prepare while others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from siredon.data.audit import Counts, read_counts
from siredon.data.table import JUDGEMENTS, MARGINS, SampleTable, load_table, save_table
from siredon.errors import DataError

#: Libraries whose version decides what a text and its tokens are.
_LIBRARIES = ("tokenizers", "transformers", "jinja2")
_COUNTS = "counts.json"
#: What a reference model thinks of samples, in a folder of its own.
REFERENCE = "reference_log_probs.npy"
_FILES = {
    *(_COUNTS, "input_ids.npy", "labels.npy", "offsets.npy", "digests.npy"),
    *(JUDGEMENTS, MARGINS, REFERENCE),
}
#: The folder of a key, or one beside it that was never published.
_KEY_NAME = re.compile(r"(?P<key>[0-9a-f]{24})|(?P<half>\.(?P<half_key>[0-9a-f]{24})-\w+)")

Content = tuple[SampleTable, Counts]


@dataclass(frozen=True)
class Entry:
    """One prepared data set in a cache.

    Args:
        folder: Where it is.
        counts: What is in it.
        num_bytes: What it takes on disk.
        prepared_at: When it was prepared, in seconds since 1970.
    """

    folder: Path
    counts: Counts
    num_bytes: int
    prepared_at: float


def cache_key(parts: dict[str, Any]) -> str:
    """A hash of everything that decides what the samples are."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def fingerprint_code() -> str:
    """A hash of the code that makes samples, and of the libraries under it: another version may make others."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    for name in _LIBRARIES:
        digest.update(metadata.version(name).encode())
    return digest.hexdigest()


def load_or_make(root: Path, key: str, make: Callable[[], Content]) -> tuple[Content, bool]:
    """The samples under `key`, made now if they are not there.

    Args:
        root: Folder of all prepared data.
        key: From `cache_key`.
        make: Makes the samples and their counts.

    Returns:
        The samples with their counts, and whether they were already there.

    Raises:
        DataError: The folder cannot be written.
    """
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / f"{key}.lock")):
            folder = root / key
            found = _read(folder)
            if found is not None:
                return found, True
            content = make()
            _publish(content, folder)
            return _read(folder) or content, False
    except OSError as error:
        raise DataError(
            f"{root}: prepared data cannot be kept there: {error.strerror or error}",
            "Set `dataset_prepared_path` to a folder that can be written and has room.",
        ) from error


def _read(folder: Path) -> Content | None:
    """What a folder holds; None if there is none, or one that is damaged, which is made anew."""
    try:
        counts = read_counts(json.loads((folder / _COUNTS).read_text()))
        table = load_table(folder, counts.num_targets)
    except (OSError, ValueError, TypeError, EOFError):
        return None
    fits = (table.num_tokens, len(table)) == (counts.num_tokens, counts.num_samples)
    return (table, counts) if fits else None


def _publish(content: Content, folder: Path) -> None:
    table, counts = content
    beside = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    beside.mkdir()  # With the modes that the user's mask leaves, which `mkdtemp` does not ask
    try:
        save_table(table, beside)
        (beside / _COUNTS).write_text(json.dumps(counts.to_json(), indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def list_cache(root: Path) -> tuple[Entry, ...]:
    """What is in a cache, the newest first."""
    entries = []
    for path in root.glob(f"*/{_COUNTS}"):
        found = _read(path.parent)
        if found is not None and not path.parent.name.startswith("."):
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            entries.append(Entry(path.parent, found[1], size, path.stat().st_mtime))
    return tuple(sorted(entries, key=lambda entry: -entry.prepared_at))


@dataclass(frozen=True)
class Clearable:
    """A folder of a cache that may be deleted.

    Args:
        folder: Where it is.
        num_bytes: What it takes on disk.
        is_whole: Whether it was published; false for what a killed run left.
    """

    folder: Path
    num_bytes: int
    is_whole: bool


def find_clearable(root: Path, older_than_days: float = 0.0) -> tuple[Clearable, ...]:
    """What was prepared so long ago or longer, and what killed runs left.

    A folder counts only if its name is a key and it holds nothing but files of a prepared data set.
    """
    limit = time.time() - 86_400 * older_than_days
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        name = _KEY_NAME.fullmatch(folder.name)
        if name is None or folder.is_symlink() or not folder.is_dir():
            continue
        files = list(folder.iterdir())
        if not all(file.name in _FILES and file.is_file() and not file.is_symlink() for file in files):
            continue
        stats = [file.stat() for file in files] or [folder.stat()]
        if max(stat.st_mtime for stat in stats) <= limit:
            size = sum(stat.st_size for stat in stats) if files else 0
            found.append(Clearable(folder, size, is_whole=not name["half"]))
    return tuple(found)


def clear_cache(root: Path, older_than_days: float = 0.0) -> int:
    """Deletes what `find_clearable` finds, but for what a run prepares at this moment; nothing else in the folder.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for entry in find_clearable(root, older_than_days):
        name = _KEY_NAME.fullmatch(entry.folder.name)
        assert name is not None
        lock = root / f"{name['key'] or name['half_key']}.lock"
        freed += entry.num_bytes if _delete(entry.folder, lock) else 0
    limit = time.time() - 86_400 * older_than_days
    for lock in root.glob("*.lock"):
        is_ours = _KEY_NAME.fullmatch(lock.stem) and not (root / lock.stem).exists()
        if is_ours and lock.stat().st_mtime <= limit:
            _remove_lock(lock)
    return freed


def _delete(folder: Path, lock: Path) -> bool:
    """Deletes a folder and its lock, unless a run holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(str(lock), timeout=0):
            shutil.rmtree(folder)
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _remove_lock(path: Path) -> None:
    """Removes a lock that nobody holds."""
    from filelock import FileLock, Timeout

    with suppress(Timeout), FileLock(str(path), timeout=0):
        path.unlink(missing_ok=True)
