"""Prepared samples on disk, under a key of everything that made them.

A folder is written beside its place and published by one rename, so a killed run leaves none that
looks whole; a lock lets one process prepare while others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from siredon.data.audit import Counts, read_counts
from siredon.data.table import SampleTable, load_table, save_table
from siredon.errors import DataError

#: Libraries whose version decides what a text and its tokens are.
_LIBRARIES = ("tokenizers", "transformers", "jinja2")
_COUNTS = "counts.json"

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
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_table(table, beside)
        (beside / _COUNTS).write_text(json.dumps(counts.to_json(), indent=2))
        beside.chmod(0o755)
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


def clear_cache(root: Path, older_than_days: float = 0.0) -> int:
    """Deletes what was prepared so long ago or longer, and what killed runs left; nothing else in the folder.

    Returns:
        Bytes that were freed.
    """
    limit = time.time() - 86_400 * older_than_days
    freed = 0
    for path in [*root.glob(f"*/{_COUNTS}"), *root.glob(f".*-*/{_COUNTS}"), *root.glob(".*-*/input_ids.npy")]:
        folder = path.parent
        if folder.is_dir() and path.stat().st_mtime <= limit:
            freed += sum(file.stat().st_size for file in folder.iterdir())
            shutil.rmtree(folder)
    for lock in root.glob("*.lock"):
        if not (root / lock.stem).is_dir() and lock.stat().st_mtime <= limit:
            lock.unlink()
    return freed
