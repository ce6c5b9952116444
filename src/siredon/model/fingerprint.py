"""A mark of the weights from which a run starts, at the price of a few reads.

Two models of one architecture have files of the same sizes and headers, and a copy has other times: so a part of the
bytes themselves counts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from siredon.config.model_folder import find_folder, find_place
from siredon.config.sections.model import ModelSection

_WEIGHTS = (".safetensors", ".gguf", ".bin")
#: Pieces of a file that are read, evenly over its length, and bytes of each.
_NUM_PIECES = 64
_PIECE = 4096


def fingerprint_model(section: ModelSection) -> str:
    """Hash of the names, sizes and sampled bytes of all weights, and of `config.json`; empty if they are not here.

    Of each file 64 pieces of 4 KiB count, the first and the last among them.  A change of a few weights between the
    pieces is not seen; another training of the same model is.
    """
    place = find_place(section.base_model)
    folder = find_folder(place.folder, section.revision or "main")
    if not folder.is_dir():
        return ""
    names = [place.gguf_file] if place.gguf_file else [path.name for path in folder.iterdir()]
    found = sorted(name for name in names if name == "config.json" or name.endswith(_WEIGHTS))
    digest = hashlib.sha256()
    for name in found:
        _add_file(digest, folder / name)
    return digest.hexdigest()[:24] if found else ""


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as stream:
        if size <= _NUM_PIECES * _PIECE:
            digest.update(stream.read())
            return
        for number in range(_NUM_PIECES):
            stream.seek((size - _PIECE) * number // (_NUM_PIECES - 1))
            digest.update(stream.read(_PIECE))
