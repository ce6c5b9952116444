"""Weights as a short text that changes when they change."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from siredon.config.model_folder import find_folder, find_place
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.reference import ReferenceSection
from siredon.train.publish import hash_files

#: Up to so many bytes every one is read; of more, a sample.
FULL_BYTES = 2 * 2**30
#: What has the name of a model of the hub, which has not been fetched.
ABSENT = "not on this machine"
#: What should be in a folder, and is not.
GONE = "not there any more"

_PIECE_BYTES = 4096
#: Pieces of a file that does not say where its tensors are.
_NUM_PIECES = 1024
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_SETTINGS = ("config.json", "adapter_config.json")


def fingerprint_weights(model: ModelSection, adapter: AdapterSection) -> dict[str, str]:
    """What a run begins with: key of the config -> how it was hashed and the hash; or `ABSENT`, or `GONE`.

    `full:` is over every byte.  `sample:` is over the size of each file, its table of tensors, and the beginning, the
    middle and the end of every tensor: it sees other weights, and may not see that a few numbers were changed by hand.
    """
    found = {}
    if not model.reinit_weights:
        found["base_model"] = _describe(_list_base(model)) or _name_missing(model)
    folders = [adapter.lora_model_dir, *adapter.lora_frozen_dirs]
    for folder in filter(None, folders):
        found[f"adapter {folder}"] = _describe(_list_weights(Path(folder).expanduser())) or GONE
    return found


def fingerprint_reference(model: ModelSection, reference: ReferenceSection) -> dict[str, str]:
    """The same of the model that a policy is compared with, where the file says which: key -> hash.

    Args:
        model: What is read for it: see `Config.reference_to_load`.
        reference: Which keys are set.
    """
    found, folder = {}, reference.reference_adapter
    if reference.has_second_model:
        found["reference_model"] = _describe(_list_base(model)) or _name_missing(model)
    if folder is not None:
        found["reference_adapter"] = _describe(_list_weights(Path(folder).expanduser())) or GONE
    return found


def hash_result(folder: Path) -> dict[str, str]:
    """File -> hash, of the weights that a run has made."""
    hashes = hash_files(sorted(folder.glob("*.safetensors")))
    return {path.name: digest for path, digest in hashes.items()}


def _list_base(model: ModelSection) -> list[Path]:
    place = find_place(model.base_model)
    folder = find_folder(place.folder, model.revision or "main")
    if place.gguf_file is None:
        return _list_weights(folder)
    path = folder / place.gguf_file
    return [path] if path.is_file() else []


def _name_missing(model: ModelSection) -> str:
    """What has no weights here: a model of the hub that was not fetched, or else a path with nothing there."""
    try:
        try_to_load_from_cache(find_place(model.base_model).folder, "config.json")
    except HFValidationError:
        return GONE
    return ABSENT


def _list_weights(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS or path.name in _SETTINGS)


def _describe(paths: list[Path]) -> str:
    """How the files were hashed, and the hash; empty where there are no weights among them."""
    if not any(path.suffix in _WEIGHTS for path in paths):
        return ""
    marks = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _hash(marks, in_full=sum(size for _, size, _ in marks) <= FULL_BYTES)


@lru_cache(maxsize=16)
def _hash(marks: tuple[tuple[Path, int, int], ...], *, in_full: bool) -> str:
    """Of files with their sizes and times: they are asked for more than once in a run."""
    paths = [path for path, _, _ in marks]
    digest = hashlib.sha256()
    if in_full:
        for path, found in hash_files(paths).items():
            digest.update(f"{path.name}\0{found}\0".encode())
        return f"full:{digest.hexdigest()}"
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for piece in _sample(path):
            digest.update(piece)
    return f"sample:{digest.hexdigest()}"


def _sample(path: Path) -> Iterator[bytes]:
    """The table of tensors, if there is one, and pieces all over the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", stream.read(8))
            header = stream.read(length)
            yield header
            places = [
                entry["data_offsets"] for entry in map(dict, json.loads(header).values()) if "dtype" in entry
            ]
            spans = sorted((8 + length + begin, 8 + length + end) for begin, end in places)
        else:
            step = max(_PIECE_BYTES, size // _NUM_PIECES)
            spans = [(begin, min(size, begin + step)) for begin in range(0, size, step)]
        for begin, end in spans:
            for start in (begin, (begin + end) // 2, max(begin, end - _PIECE_BYTES)):
                stream.seek(start)
                yield stream.read(min(_PIECE_BYTES, end - start))
