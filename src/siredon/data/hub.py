"""Data sets that `datasets` reads itself: those of the hub, and folders that it saved."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.data.arrow_rows import DatasetRows
from siredon.data.rows import Rows
from siredon.data.scratch import Scratch
from siredon.errors import DataError
from siredon.redaction import redact

_CODE = re.compile("scripts are no longer supported|trust_remote_code", re.IGNORECASE)


def load_hub(entry: DatasetEntry, name: str | None) -> DatasetRows:
    """The rows of a data set on the hub, in one configuration.

    Raises:
        DataError: There is none, it is closed, it comes with code, it has no such split, or no network.
    """
    import datasets

    label = f"{entry.path} ({name})" if len(entry.name) > 1 else entry.path
    with _quiet():
        try:
            dataset = datasets.load_dataset(
                entry.path,
                name,
                data_files=list(entry.data_files) or None,
                split=re.sub(r"\s*\+\s*", "+", entry.split or "train"),
                revision=entry.revision,
            )
        except Exception as error:
            raise _blame(entry, label, error) from error
    _check_commit(dataset, entry, label)
    return DatasetRows(dataset, label)


def _check_commit(dataset: Any, entry: DatasetEntry, label: str) -> None:
    """Without network, `datasets` takes the version that it loaded last, whatever `revision` says."""
    commit = entry.revision or ""
    folders = {Path(file["filename"]).parent.name for file in dataset.cache_files}
    if re.fullmatch("[0-9a-f]{40}", commit) and not folders <= {commit}:
        raise DataError(
            f"{label}: there is no network, and the rows that are here are not those of `revision: {commit}`",
            "Load this revision once with network.",
        )


def fingerprint_datasets(parts: list[DatasetRows]) -> str:
    """A hash of the files that `datasets` keeps of them: their folders are named after the commit."""
    facts = [
        [*("/".join(Path(file["filename"]).parts[-5:]) for file in part.dataset.cache_files), len(part)]
        for part in parts
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def open_saved(path: Path, label: str, scratch: Scratch | None) -> dict[str, Callable[[], Rows]]:
    """The splits of a folder that `datasets` saved; a data set that has none is `train`.

    Raises:
        DataError: A file in it is damaged or missing.
    """
    import datasets

    with _quiet():
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:
            reason = _first_line(error)
            raise DataError(
                f"{label}: the saved data set cannot be read ({reason})", "Save it anew."
            ) from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {split: partial(DatasetRows, rows, label, scratch) for split, rows in splits.items()}


def _blame(entry: DatasetEntry, label: str, error: Exception) -> DataError:
    reason = _first_line(error)
    if _CODE.search(str(error)):
        return DataError(
            f"{label}: the data set is made by code that comes with it, which is never run",
            "Use a version of it in Parquet: `revision: refs/convert/parquet`, if the hub has made one.",
        )
    if "Config name is missing" in reason:
        found = re.search(r"available configs: (\[.*?\])", str(error))
        return DataError(
            f"{label}: it has several configurations",
            f"Set `name` to one or more of {found[1] if found else 'them'}.",
        )
    if "Unknown split" in reason or "BuilderConfig" in reason:
        return DataError(f"{label}: {reason}", "Set `split` and `name` to what it has.")
    if "gated" in str(error) or "401" in reason:
        return DataError(
            f"{label}: the hub lets only some in ({reason})",
            "Ask for access on its page, then run: hf auth login",
        )
    return DataError(
        f"{label}: neither a local file or folder, nor to be had from the hub ({reason})",
        f"Check `path` (a relative one counts from {Path.cwd()}), `split`, and the network.",
    )


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return redact((str(error).splitlines() or [type(error).__name__])[0])[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the progress bars of `datasets` off the screen, and puts the setting back."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_off: Any = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            enable_progress_bars()
