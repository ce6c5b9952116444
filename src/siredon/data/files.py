"""One file -> rows, by what its first bytes and its ending say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from siredon.data.arrow_rows import open_arrow, open_parquet
from siredon.data.csv_rows import open_csv
from siredon.data.file_rows import TextFile
from siredon.data.json_rows import open_json
from siredon.data.rows import Joined, Rows, join_rows
from siredon.data.text_rows import open_text
from siredon.data.unpack import decompress, find_packing, strip_packing, unpack_archive

_ENDINGS = {
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
_OPENERS: dict[str, Callable[[TextFile], Rows]] = {
    "json": open_json,
    "parquet": open_parquet,
    "text": open_text,
    "arrow": open_arrow,
}
#: Kinds of files: the values of `ds_type`.
KINDS = ("json", "csv", "parquet", "text", "arrow")
#: The way out where nothing was found.
KNOWN_ENDINGS = (
    "Known endings: json, jsonl, ndjson, csv, tsv, parquet, arrow, txt, md; set `ds_type` for others."
)
_SET_KIND = "Set `ds_type` to json, csv, parquet, text or arrow."


def find_kind(name: str) -> str | None:
    """The kind that the ending of a name says, without what tells that it is compressed."""
    return _ENDINGS.get(_ending(name))


def is_data_file(name: str) -> bool:
    """Whether a file in a folder is data, by its ending: of a known kind, or an archive."""
    return find_kind(name) is not None or find_archive(name)


def find_archive(name: str) -> bool:
    """Whether a name is that of an archive which does not say what is inside."""
    return strip_packing(name) != name and not _ending(name) and not name.lower().endswith((".gz", ".bz2"))


def open_file(file: TextFile, kind: str | None = None) -> Rows:
    """The rows of a file; of all files, if it is an archive.

    Args:
        file: The file.
        kind: `ds_type`; else the first bytes and the ending say it.

    Raises:
        DataError: It is damaged, of an unknown kind, or not what it should be.
    """
    file, packing = unpack(file)
    if packing is not None:
        return _open_archive(file, packing, kind)
    if file.path.stat().st_size == 0:
        return Joined(())
    kind = kind or _tell_kind(file)
    if kind == "csv":
        return open_csv(file, "\t" if _ending(file.label) == ".tsv" else ",")
    return _OPENERS[kind](file)


def unpack(file: TextFile) -> tuple[TextFile, str | None]:
    """The file inside a compressed one, or the file itself, and whether it is an archive: `zip`, `tar` or None.

    Raises:
        DataError: It is damaged.
    """
    packing = find_packing(file.path)
    while packing not in (None, "zip", "tar"):
        file = decompress(file, packing)
        packing = find_packing(file.path)
    return file, packing


def _open_archive(file: TextFile, packing: str, kind: str | None) -> Rows:
    folder = unpack_archive(file, packing)
    root = folder.path
    names = list_files(root)
    if kind is None and len(names) > 1:
        names = [name for name in names if is_data_file(name)]
    if not names:
        raise file.error(": the archive holds no data file", KNOWN_ENDINGS)
    inner = [replace(folder, path=root / name, label=f"{file.label}/{name}") for name in names]
    return join_rows(open_file(member, kind) for member in inner)


def list_files(root: Path) -> list[str]:
    """Names of the files under a folder, sorted; hidden ones are left out."""
    found = []
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if not is_hidden(name)]
        paths = (Path(folder, name) for name in names if not is_hidden(name))
        found += [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return sorted(found)


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name holds no data: `.git`, `__MACOSX`."""
    return part.startswith((".", "__"))


def _ending(name: str) -> str:
    return PurePosixPath(strip_packing(name)).suffix.lower()


def _tell_kind(file: TextFile) -> str:
    """The kind of a plain file."""
    with file.path.open("rb") as stream:
        head = stream.read(1024)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    kind = find_kind(file.label)
    if kind is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return "json"
    if kind is None:
        raise file.error(": its ending does not tell what it is", _SET_KIND)
    return kind
