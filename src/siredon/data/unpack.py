"""Compressed files and archives -> plain files in a temporary folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from siredon.data.file_rows import TextFile
from siredon.data.scratch import MAX_LAYERS, Scratch, report_full_disk
from siredon.errors import DataError

#: Endings of compressed files and archives, for the name without them.
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".tar", ".tgz")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
#: Names that lead elsewhere on Windows: a drive, a backslash.
_OF_WINDOWS = re.compile(r"^[A-Za-z]:|\\")
_BLOCK_BYTES = 1 << 20
#: The room on the disk is looked at anew after so many bytes, whose number nothing tells before.
_LOOK_BYTES = 1 << 26
#: Folders, one in the other, in the name of a member.
MAX_FOLDERS = 50
_BY_HAND = "Unpack it by hand if you trust it, or pack it anew."
_DAMAGED = (
    EOFError,
    OSError,
    ValueError,  # What Arrow raises is one
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
)


def find_packing(path: Path) -> str | None:
    """How a file is packed, by its first bytes: a compression, `zip`, `tar`, or None."""
    with path.open("rb") as stream:
        head = stream.read(262)
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    return "tar" if found is None and head[257:262] == b"ustar" else found


def strip_packing(name: str) -> str:
    """`rows.jsonl.gz` -> `rows.jsonl`."""
    while (path := PurePosixPath(name)).suffix.lower() in PACKED_ENDINGS and path.stem != path.name:
        name = name[: -len(path.suffix)]
    return name


def decompress(file: TextFile, packing: str) -> TextFile:
    """The file inside a compressed one.

    Raises:
        DataError: It is damaged, comes to more than any data does, or the disk is full.
    """
    scratch = Scratch()
    target = scratch.new_file(PurePosixPath(strip_packing(file.path.name)).name)
    inner = _enter(file, target, scratch)
    with _report_damage(file, packing), _open_compressed(file.path, packing) as source:
        _copy(source, inner)
    return inner


def unpack_archive(file: TextFile, packing: str) -> TextFile:
    """The folder of what a zip or tar file holds.

    Raises:
        DataError: It is damaged, it has a member outside of it, a link, a password, it comes to more than any data
            does, or the disk is full.
    """
    scratch = Scratch()
    root = scratch.new_file("archive")
    root.mkdir()
    folder = _enter(file, root, scratch)
    with _report_damage(file, packing):
        if packing == "zip":
            _unpack_zip(file, folder, scratch)
        else:
            _unpack_tar(file, folder, scratch)
    return folder


def _enter(file: TextFile, place: Path, scratch: Scratch) -> TextFile:
    """What a packed file is unpacked to.

    Raises:
        DataError: It is in too many others.
    """
    if file.num_layers >= MAX_LAYERS:
        raise file.error(f": refused: packed files lie in it over {MAX_LAYERS} deep", _BY_HAND)
    return file.unpacked(place, file.label, scratch)


def _unpack_zip(file: TextFile, folder: TextFile, scratch: Scratch) -> None:
    with zipfile.ZipFile(file.path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        declared = sum(info.file_size for info in members)
        _check_allowance(folder, declared, len(members))
        scratch.check_room(declared, file.label)
        for info in members:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refuse(file, info.filename, "is a link")
            if info.flag_bits & 1:
                raise _refuse(
                    file, info.filename, "has a password", "Unpack it, and give the folder as `path`."
                )
            with archive.open(info) as source:
                _copy(source, _target(folder, info.filename))


def _unpack_tar(file: TextFile, folder: TextFile, scratch: Scratch) -> None:
    with tarfile.open(file.path, "r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isfile():
                raise _refuse(file, member.name, "is a link or a device")
            _check_allowance(folder, member.size, 1)
            scratch.check_room(member.size, file.label)
            source = archive.extractfile(member)
            assert source is not None
            with source:
                _copy(source, _target(folder, member.name))


def _target(folder: TextFile, name: str) -> TextFile:
    """Where a member goes, which is inside the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or _OF_WINDOWS.search(name):
        raise _refuse(folder, name, "would be written outside of its folder")
    if len(path.parts) > MAX_FOLDERS:
        raise _refuse(folder, f"{name[:40]}...", f"lies over {MAX_FOLDERS} folders deep")
    target = folder.path / path
    if target.exists():
        raise _refuse(folder, name, "is there twice")
    target.parent.mkdir(parents=True, exist_ok=True)
    return replace(folder, path=target)


def _check_allowance(file: TextFile, more_bytes: int = 0, more_members: int = 0) -> None:
    """Ends what unpacks to more than any data does.

    Raises:
        DataError: It does.
    """
    assert file.allowance is not None
    excess = file.allowance.find_excess(more_bytes, more_members)
    if excess:
        raise file.error(f": refused: it {excess}", _BY_HAND)


def _refuse(file: TextFile, name: str, reason: str, fix: str = "") -> DataError:
    return file.error(
        f": refused: its member {name!r} {reason}",
        fix or _BY_HAND,
    )


@contextmanager
def _report_damage(file: TextFile, packing: str) -> Iterator[None]:
    try:
        with report_full_disk(file.label):
            yield
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise file.error(
            f": the {packing} file is damaged or incomplete ({reason})", "Make or download it again."
        ) from error


@contextmanager
def _open_compressed(path: Path, packing: str) -> Iterator[IO[bytes]]:
    if packing in ("zstd", "lz4"):
        import pyarrow as pa

        with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, packing) as stream:
            yield stream
        return
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    with openers[packing](path) as stream:
        yield stream


def _copy(source: IO[bytes], target: TextFile) -> None:
    """Writes a file, as far as it may grow and the disk has room."""
    allowance, scratch = target.allowance, target.scratch
    assert allowance is not None
    assert scratch is not None
    allowance.num_members += 1
    since_look = 0
    with target.path.open("xb") as out:
        while block := source.read(_BLOCK_BYTES):
            allowance.num_bytes += len(block)
            since_look += len(block)
            if since_look > _LOOK_BYTES:
                scratch.check_room(_LOOK_BYTES, target.label)
                since_look = 0
            _check_allowance(target)
            out.write(block)
