"""Sources -> rows, through `datasets`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.data.types import Row
from siredon.errors import DataError

_KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".arrow": "arrow",
}

_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip"}


@dataclass(frozen=True)
class Source:
    """Rows of one data set.

    Args:
        name: How messages call it: the path, as the user wrote it.
        rows: The rows.
    """

    name: str
    rows: Sequence[Row]


def fingerprint_entry(entry: DatasetEntry) -> str | None:
    """The content hash of a local data set; None for one on the hub (its rows must be loaded to know)."""
    files = _local_files(entry)
    if files is None:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def fingerprint_hub(source: Source) -> str:
    """The same for rows from the hub: the files they came from, whose names hold the commit."""
    rows: Any = source.rows
    return hashlib.sha256(repr((rows.cache_files, len(rows))).encode()).hexdigest()


def load_rows(entry: DatasetEntry) -> Source:
    """Reads the rows of one entry of `datasets:`.

    Raises:
        DataError: No such file or data set, no such split, or a file that is not what its ending says.
    """
    files = _local_files(entry)
    rows = _load_hub(entry) if files is None else _load_local(entry, files)
    if len(rows) == 0:
        raise DataError(f"{entry.path}: the data set has no rows", "Check `path` and `split`.")
    return Source(entry.path, rows)


def _local_files(entry: DatasetEntry) -> list[Path] | None:
    """The files of a local path, sorted; None if the path is no local one."""
    path = Path(entry.path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        return None
    patterns = entry.data_files or ("**/*",)
    found = {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _load_local(entry: DatasetEntry, files: Sequence[Path]) -> Any:
    """One file, or a folder: as `datasets` saved it, or of files whose names tell their splits."""
    import datasets

    path = Path(entry.path).expanduser()
    split = entry.split or "train"
    if not files:
        wanted = f" that matches {', '.join(entry.data_files)}" if entry.data_files else ""
        raise DataError(f"{entry.path}: the folder holds no file{wanted}", "Check `path` and `data_files`.")
    with _Quiet():
        try:
            if path.is_file():
                kind = entry.ds_type or _KINDS.get(_ending(path), "json")
                return datasets.load_dataset(kind, data_files=str(path), split=split, **_options(kind, path))
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                saved = datasets.load_from_disk(str(path))
                return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            data_files = list(entry.data_files) or None
            if entry.ds_type:
                names = [str(file) for file in files]
                return datasets.load_dataset(entry.ds_type, data_files=names, split=split)
            return datasets.load_dataset(str(path), data_files=data_files, split=split)
        except Exception as error:
            raise _read_error(entry, files, error) from error


def _ending(path: Path) -> str:
    """The ending that tells the kind: `.jsonl` of `a.jsonl.gz`."""
    endings = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
    return endings[-1] if endings else ""


def _options(kind: str, path: Path) -> dict[str, str]:
    if kind == "csv" and _ending(path) == ".tsv":
        return {"sep": "\t"}
    return {"sample_by": "document"} if kind == "text" else {}


def _load_hub(entry: DatasetEntry) -> Any:
    import datasets

    if entry.is_local:
        raise DataError(
            f"{entry.path}: there is no such file or folder",
            f"{_suggest_file(entry.path)}A relative path counts from {Path.cwd()}.",
        )
    with _Quiet():
        try:
            return datasets.load_dataset(
                entry.path,
                entry.name,
                data_files=list(entry.data_files) or None,
                split=entry.split or "train",
                revision=entry.revision,
            )
        except Exception as error:
            raise DataError(
                f"{entry.path}: neither a local file or folder, nor to be had from the hub ({_first_line(error)})",
                "Check `path` (it is relative to the folder where siredon was started), `split`, and the network.",
            ) from error


def _suggest_file(name: str) -> str:
    """`Did you mean ...? ` for a file with nearly that name in the same folder, or nothing."""
    folder = Path(name).expanduser().parent
    if not folder.is_dir():
        return f"There is no folder {folder} either. "
    near = difflib.get_close_matches(Path(name).name, [path.name for path in folder.iterdir()], n=1)
    return f"Did you mean {folder / near[0]}? " if near else ""


def _read_error(entry: DatasetEntry, files: Sequence[Path], error: Exception) -> DataError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = f"{type(cause).__name__}: {_first_line(cause)}"
    names = ", ".join(file.name for file in files[:3])
    return DataError(f"{entry.path}: cannot read {names}: {reason}", "Check the file, `ds_type` and `split`.")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class _Quiet:
    """Keeps the progress bars of `datasets` off the screen, and puts the setting back."""

    def __enter__(self) -> None:
        from datasets.utils import are_progress_bars_disabled, disable_progress_bars

        self._was_off = are_progress_bars_disabled()
        disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from datasets.utils import enable_progress_bars

        if not self._was_off:
            enable_progress_bars()
