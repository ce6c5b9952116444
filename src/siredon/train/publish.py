"""Folders that are whole or not there: written beside their place, listed in a manifest, published by one rename.

A manifest names every file with its size and hash.  Files and manifest are on the disk (fsync) before the rename, and
the rename is before anything older is deleted.  So a kill or a loss of power at any moment leaves the checkpoints as
they were, or with a whole one more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from siredon.log import note, warn

PREFIX = "checkpoint-"
MANIFEST = "manifest.json"
#: Begins the names of folders that are being written, or deleted; what a kill leaves of them is cleared away.
DRAFT = ".writing-"
#: A result that is whole, on its way into the output folder.
RESULT = ".result"
LATEST = "latest"
BEST = "best"

#: Large files are hashed in pieces of this size, several at once.
_PIECE_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**20
_MOST_THREADS = 8
#: The last files of a result to be moved: where they are, all of it is.
_LAST = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def list_checkpoints(output: Path) -> list[Path]:
    """The `checkpoint-N` folders, by N."""
    numbered = [
        (int(folder.name.removeprefix(PREFIX)), folder)
        for folder in output.glob(f"{PREFIX}*")
        if folder.is_dir() and folder.name.removeprefix(PREFIX).isdecimal()
    ]
    return [folder for _, folder in sorted(numbered)]


def open_draft(place: Path) -> Path:
    """An empty folder beside `place`, in which it is written."""
    draft = name_draft(place)
    discard(draft)
    draft.mkdir(parents=True)
    return draft


def name_draft(place: Path) -> Path:
    """Where `place` is written."""
    return place.with_name(f"{DRAFT}{place.name}")


def discard(folder: Path) -> None:
    """Deletes a folder, if it is there; what cannot be deleted stays under a name that nobody takes for a whole one."""
    if not folder.exists():
        return
    doomed = folder
    if not folder.name.startswith(DRAFT):
        doomed = folder.with_name(f"{DRAFT}old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def publish(draft: Path, place: Path) -> None:
    """Puts a draft in its place: hashed, on the disk, and renamed.

    A folder that is there already is of a run that went on from an earlier checkpoint, or torn: it goes.
    """
    _seal(draft)
    discard(place)
    draft.rename(place)
    _sync(place.parent)


def find_fault(folder: Path, *, by_hash: bool = False) -> str:
    """What differs from the manifest; empty for a whole folder.

    Args:
        folder: What was published once.
        by_hash: Read every byte, and not the sizes only.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text())["files"]
        wanted = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in listed.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    for name, (size, _) in wanted.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    if not by_hash:
        return ""
    hashes = hash_files([folder / name for name in wanted])
    changed = [name for name, (_, wanted_hash) in wanted.items() if hashes[folder / name] != wanted_hash]
    return f"{changed[0]} has other bytes than were written" if changed else ""


def drop_oldest(output: Path, limit: int | None, step: int, best: Path | None) -> None:
    """Deletes the oldest whole checkpoints until `limit` are left, but never the newest one, nor the best.

    Checkpoints of later steps than the newest one are left of a run that was further, and count as older.

    Args:
        output: Their folder.
        limit: How many may stay; None for all.
        step: That of the newest one.
        best: The best one.
    """
    if limit is None:
        return
    whole = [folder for folder in list_checkpoints(output) if not find_fault(folder) or is_unlisted(folder)]
    kept = {f"{PREFIX}{step}", best.name if best else ""}
    ordered = sorted(whole, key=lambda folder: (_step(folder) <= step, _step(folder)))
    spare = [folder for folder in ordered if folder.name not in kept]
    for folder in spare[: max(0, len(whole) - limit)]:
        discard(folder)


def is_unlisted(folder: Path) -> bool:
    """Whether the folder is a checkpoint of Siredon from before there were manifests."""
    try:
        facts = json.loads((folder / "siredon.json").read_text())
    except (OSError, ValueError):
        return False
    return not (folder / MANIFEST).exists() and not facts.get("manifest", False)


def point(output: Path, name: str, target: Path) -> None:
    """Lets the link `name` in the output folder lead to a checkpoint, in one step; nothing where links cannot be."""
    beside = output / f"{DRAFT}{name}"
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(target.name)
        beside.replace(output / name)
    except OSError as error:
        note(f"no link `{name}` in {output}: {error.strerror or error}")


def clear_drafts(output: Path) -> None:
    """Deletes what a run that was killed left half written, and says so."""
    for path in sorted(output.glob(f"{DRAFT}*")):
        if path.is_dir() and not path.is_symlink():
            warn(f"{path} was never finished: deleted")
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def publish_result(draft: Path) -> None:
    """Moves the files of a draft into the folder that it lies in, so that a kill in between is made good later."""
    _seal(draft)
    result = draft.with_name(RESULT)
    discard(result)
    draft.rename(result)
    _sync(result.parent)
    complete_result(result.parent)


def complete_result(output: Path) -> bool:
    """Moves what is left of a whole result into its output folder; False if there is none."""
    result = output / RESULT
    if not (result / MANIFEST).is_file():
        return False
    for path in sorted(_list_files(result), key=lambda path: path.name in _LAST):
        if path.name != MANIFEST:
            place = output / path.relative_to(result)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    _sync(output)
    discard(result)
    return True


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in one step: the old one is there until the new one is on the disk."""
    beside = path.with_name(f"{DRAFT}{path.name}")
    try:
        with beside.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def measure_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in _list_files(folder))


def _seal(folder: Path) -> None:
    """Writes the manifest, once all files are on the disk."""
    paths = _list_files(folder)
    hashes = hash_files(paths, syncs=True)
    facts = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hashes[path]}
        for path in paths
    }
    about = f"sha256 of a file; above {_PIECE_BYTES} bytes, sha256 of the sha256 digests of its pieces of that size"
    write_whole(folder / MANIFEST, json.dumps({"hash": about, "files": facts}, indent=1) + "\n")
    for inner in {path.parent for path in paths} | {folder}:
        _sync(inner)


def hash_files(paths: list[Path], *, syncs: bool = False) -> dict[Path, str]:
    """The hash of each file, in hex; with `syncs` also waits until they are on the disk.

    It is sha256, of a large file that of the digests of its pieces.
    """
    pieces = [piece for path in paths for piece in _cut(path)]
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        synced = pool.map(_sync, paths if syncs else [])
        digests: dict[Path, list[bytes]] = {path: [] for path in paths}
        for (path, _), digest in zip(pieces, pool.map(_hash_piece, pieces), strict=True):
            digests[path].append(digest)
        list(synced)
    return {path: _join(found) for path, found in digests.items()}


def _join(digests: list[bytes]) -> str:
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return whole.hex()


def _cut(path: Path) -> Iterator[tuple[Path, int]]:
    """A file and where each of its pieces begins; an empty file is one piece."""
    for begin in range(0, max(1, path.stat().st_size), _PIECE_BYTES):
        yield path, begin


def _hash_piece(piece: tuple[Path, int]) -> bytes:
    path, begin = piece
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        stream.seek(begin)
        left = _PIECE_BYTES
        while left and (read := stream.read(min(left, _BUFFER_BYTES))):
            found.update(read)
            left -= len(read)
    return found.digest()


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))
