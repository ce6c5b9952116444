"""`.metadata` of PyTorch's distributed checkpoints (DCP): which tensors there are, and where their pieces lie.

The file is a pickle, and torch reads it with all that a pickle can do.  Here it is read with stand-ins for the few
classes that it is made of: another name is refused before it is imported, and what comes out is checked.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.errors import CheckpointError

METADATA = ".metadata"
#: A thousand ranks with a thousand tensors each write a tenth of this.
_MOST_BYTES = 2**30
_DCP = "torch.distributed.checkpoint"
#: Where classes of the file were before torch 2.3, too.
_OLD = "torch.distributed._shard.sharded_tensor.metadata"
#: What a file that is not what it should be raises while it is read.
_WRONG = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(OverflowError, MemoryError),
)
_FIX = "Take another checkpoint of the run."


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, as one rank wrote it.

    Args:
        offset: Where in the tensor it begins, for each dimension.
        shape: Its own.
        file: The file that holds it, in the folder of the checkpoint.
        begin: Where it begins there, in bytes.
        length: How long it is there, in bytes.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    begin: int
    length: int


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint.

    Args:
        path: The keys of nested dictionaries that lead to it: `("model", "lm_head.weight")`.
        shape: Of the whole tensor.
        dtype: Its format.
        pieces: What it is made of.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Index:
    """What a checkpoint holds.

    Args:
        tensors: By their names in the checkpoint.
        num_others: Values that are no tensors; they are not read.
    """

    tensors: Mapping[str, Stored]
    num_others: int


class _Foreign(pickle.UnpicklingError):
    """A name that no such file needs."""


def read_index(folder: Path) -> Index:
    """What lies in the folder of a checkpoint; no code of the file is run.

    Raises:
        CheckpointError: No such file; one that holds more than it should, or cannot be read.
    """
    path = folder / METADATA
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no distributed checkpoint: {METADATA} is missing",
            f"It is written last: a save that was cut off has none. {_FIX}",
        )
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{path} has over {_MOST_BYTES:,} bytes, which no such file has", _FIX)
    data = path.read_bytes()
    try:
        _check_memo(data)
        return _read(_Unpickler(data).load())
    except _Foreign as error:
        raise CheckpointError(
            f"{path} holds more than a list of tensors, and is not read: it names {error}",
            "PyTorch writes no such file: do not trust this checkpoint.",
        ) from error
    except _WRONG as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged: {reason}", _FIX) from error


def _check_memo(data: bytes) -> None:
    """A number of the memo beyond all that was put there would make a table of that size."""
    for number, (code, argument, _) in enumerate(pickletools.genops(data)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise ValueError("a number of its memo is out of order")


class _Unpickler(pickle.Unpickler):
    """Knows the names that the file is made of, each by a stand-in that is made anew for every file.

    A pickle can set attributes of the classes that it names, so these are nobody else's.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known = _make_stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in self._known:
            raise _Foreign(f"{module}.{name}")
        return self._known[module, name]


def _make_stand_ins() -> dict[tuple[str, str], Any]:
    def make_record() -> type:
        return type("Record", (), {})

    def nothing(*_: Any) -> None:
        return None

    def keep(self: Any, state: Any) -> None:
        self.dtype = state[0]

    properties = type("Properties", (), {"__setstate__": keep})
    tensors = type("Tensors", (), {})
    known: dict[tuple[str, str], Any] = {
        (f"{_DCP}.metadata", "TensorStorageMetadata"): tensors,
        (f"{_DCP}.metadata", "TensorProperties"): properties,
        (_OLD, "TensorProperties"): properties,
        (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"): nothing,
        (_OLD, "MEM_FORMAT_ENCODING"): nothing,
        (f"{_DCP}.filesystem", "_StorageInfo"): make_record(),
        ("torch.serialization", "_get_layout"): nothing,
        ("torch", "Size"): tuple,
        ("collections", "OrderedDict"): dict,
    }
    known |= {
        (f"{_DCP}.metadata", name): make_record()
        for name in (
            "Metadata",
            "ChunkStorageMetadata",
            "BytesStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
        )
    }
    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    return known | {(module, name): nothing for module in ("pathlib", "pathlib._local") for name in paths}


def _read(raw: Any) -> Index:
    """Stand-ins -> what is known of each tensor.

    Raises:
        LookupError, TypeError, ValueError: The file is no list of tensors.
    """
    places = {
        (_text(vars(key)["fqn"]), _sizes(vars(key)["offset"])): vars(place)
        for key, place in vars(raw)["storage_data"].items()
        if vars(key).get("offset") is not None
    }
    paths = vars(raw).get("planner_data") or {}
    tensors = {}
    num_others = 0
    for name, found in vars(raw)["state_dict_metadata"].items():
        facts = vars(found)
        if "chunks" not in facts:
            num_others += 1
            continue
        path = tuple(map(str, paths.get(name) or (name,)))
        pieces = tuple(_read_piece(_text(name), vars(chunk), places) for chunk in facts["chunks"])
        dtype = vars(facts["properties"])["dtype"]
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name} has no format")
        tensors[_text(name)] = Stored(path, _sizes(facts["size"]), dtype, pieces)
    return Index(tensors, num_others)


def _read_piece(
    name: str, chunk: Mapping[str, Any], places: Mapping[tuple[str, tuple[int, ...]], Mapping[str, Any]]
) -> Piece:
    offset = _sizes(chunk["offsets"])
    if (name, offset) not in places:
        raise ValueError(f"it does not say where the piece of {name} at {offset} lies")
    place = places[name, offset]
    file = _text(place["relative_path"])
    if Path(file).name != file:
        raise ValueError(f"{name} lies outside of the checkpoint, in {file}")
    if place.get("transform_descriptors"):
        raise ValueError(f"{name} was changed as it was written, by {place['transform_descriptors']}")
    return Piece(offset, _sizes(chunk["sizes"]), file, *_sizes((place["offset"], place["length"])))


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError("a name is no text")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or any(type(value) is not int or value < 0 for value in values):
        raise TypeError("a size is no number")
    return values
