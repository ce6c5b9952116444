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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siredon.data.audit import Counts
from siredon.data.table import SampleTable, load_table, save_table

#: Raise this when the same row, template and options give other samples than before.
CODE_VERSION = 1


def cache_key(parts: dict[str, Any]) -> str:
    """A hash of everything that decides what the samples are."""
    text = json.dumps({"code": CODE_VERSION, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def load_or_make(
    root: Path, key: str, make: Callable[[], tuple[SampleTable, Counts]]
) -> tuple[SampleTable, Counts, bool]:
    """The samples under `key`, made now if they are not there.

    Args:
        root: Folder of all prepared data.
        key: From `cache_key`.
        make: Makes the samples and their counts.

    Returns:
        The samples, their counts, and whether they were already there.
    """
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    folder = root / key
    with FileLock(str(root / f"{key}.lock")):
        if folder.is_dir():
            counts = Counts(**json.loads((folder / "counts.json").read_text()))
            return load_table(folder), counts, True
        table, counts = make()
        beside = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
        try:
            save_table(table, beside)
            (beside / "counts.json").write_text(json.dumps(counts.to_json(), indent=2))
            beside.chmod(0o755)
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return load_table(folder), counts, False
