"""Safetensors read and written tensor by tensor: a file of 5 GB takes the memory of its largest tensor.

A file is eight bytes (the length of the header), the header (JSON: name -> format, shape, place), and the data.  The
header is known when the last tensor is, so room is kept for it, and filled up with blanks, as the format allows.

Source of the format: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from safetensors import safe_open

from siredon.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: The largest file that is written, in bytes.
SHARD_BYTES = 5 * 10**9
#: Format of a tensor -> its name in a header.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: What a header holds of a tensor beside its name, at most.
_ENTRY_BYTES = 160


class Shards:
    """The tensors of a model on disk, which are read one at a time.

    Args:
        files: Its safetensors.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with safe_open(file, "pt") as opened:
                names = opened.keys()
                for name in names:
                    self._files[name] = file
                    self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def read(self, name: str) -> torch.Tensor:
        """A tensor, which the file is closed after: what is mapped of it stays for as long as the tensor does."""
        return read_tensor(self._files[name], name)

    @property
    def largest_file_bytes(self) -> int:
        """The size of the largest file."""
        return max(path.stat().st_size for path in set(self._files.values()))


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """One tensor of a file of safetensors."""
    with safe_open(file, "pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor


def list_shards(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model, in order; none if its weights are stored in another way.

    Raises:
        ModelError: The index names a file that is not there.
    """
    index = folder / INDEX
    if not index.is_file():
        return (folder / WEIGHTS,) if (folder / WEIGHTS).is_file() else ()
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks {missing[0]}, which its index names", "Fetch the model again.")
    return tuple(folder / name for name in names)


class ShardWriter:
    """Writes a model into a folder, tensor after tensor, and its index at the end.

    Args:
        folder: Where.
        names: Every name that may be written: there is room for these in each header.
        max_bytes: A file is closed before it grows beyond this.

    Attributes:
        num_files: How many it has begun.
    """

    def __init__(self, folder: Path, names: Iterable[str], max_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        room = sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names) + 64
        self._room = -(-room // 8) * 8
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._header: dict[str, Any] = {}
        self._size = 0
        self._places: dict[str, int] = {}
        self.num_files = 0
        self._num_weights = 0
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
            self._write_index()
        elif self._file is not None:
            self._file.close()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Adds a tensor."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        num_bytes = flat.numel() * flat.element_size()
        full = self._size and self._size + num_bytes > self._max_bytes
        if self._file is None or full or self._size % flat.element_size():
            self._close()
            self._open()
        assert self._file is not None
        if num_bytes:
            self._file.write(flat.view(torch.uint8).numpy().data)
        self._header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._size, self._size + num_bytes],
        }
        self._size += num_bytes
        self._places[name] = self.num_files
        self._num_weights += tensor.numel()
        self._num_bytes += num_bytes

    def _open(self) -> None:
        self.num_files += 1
        self._header, self._size = {"__metadata__": {"format": "pt"}}, 0
        self._file = (self._folder / f".shard-{self.num_files}").open("wb")
        self._file.write(self._room.to_bytes(8, "little") + b" " * self._room)

    def _close(self) -> None:
        if self._file is None:
            return
        header = json.dumps(self._header, separators=(",", ":")).encode()
        assert len(header) <= self._room, "names that were not announced"
        self._file.seek(8)
        self._file.write(header)
        self._file.close()
        self._file = None

    def _write_index(self) -> None:
        """Gives the files their names, which say how many there are."""
        many = self.num_files > 1
        names = {
            number: f"model-{number:05d}-of-{self.num_files:05d}.safetensors" if many else WEIGHTS
            for number in range(1, self.num_files + 1)
        }
        for number, name in names.items():
            (self._folder / f".shard-{number}").rename(self._folder / name)
        if many:
            index = {
                "metadata": {"total_parameters": self._num_weights, "total_size": self._num_bytes},
                "weight_map": {name: names[number] for name, number in sorted(self._places.items())},
            }
            (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
