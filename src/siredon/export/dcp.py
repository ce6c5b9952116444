"""A distributed checkpoint of PyTorch (DCP), tensor by tensor: the pieces that the ranks wrote, put together."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from siredon.errors import CheckpointError
from siredon.export.dcp_index import Piece, Stored, read_index

_FIX = "Copy the checkpoint again, with the files of all ranks, or take another one of the run."
#: What a file whose bytes are not what was saved raises while it is read.
_WRONG = (
    UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
)

#: A thousand ranks in each of two dimensions cut a tensor into a tenth of this.
_MOST_CELLS = 10**7


@dataclass(frozen=True)
class _Place:
    """Where a piece lies, as torch's reader asks for it."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class Checkpoint:
    """The tensors of a checkpoint, which are read one at a time.

    Args:
        folder: With `.metadata` and the files of all ranks.

    Raises:
        CheckpointError: It is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = read_index(folder)
        self.tensors, self.num_others = index.tensors, index.num_others

    def check(self, names: Iterable[str]) -> None:
        """Every piece of these tensors is there, in its full length, and they leave no gap.

        Raises:
            CheckpointError: What is missing.
        """
        sizes: dict[str, int] = {}
        for name in names:
            stored = self.tensors[name]
            if not _is_whole(stored):
                raise CheckpointError(
                    f"{self.folder}: the pieces of {name} do not make a tensor of {show_shape(stored.shape)}",
                    _FIX,
                )
            for piece in stored.pieces:
                path = self.folder / piece.file
                if piece.file not in sizes:
                    sizes[piece.file] = path.stat().st_size if path.is_file() else -1
                if sizes[piece.file] < 0:
                    raise CheckpointError(
                        f"{path} is missing: it holds {show_shape(piece.shape)} of {name}", _FIX
                    )
                if sizes[piece.file] < piece.begin + piece.length:
                    raise CheckpointError(
                        f"{path} ends after {sizes[piece.file]:,} bytes, before a piece of {name} does "
                        f"({piece.begin + piece.length:,})",
                        _FIX,
                    )

    def list_files(self, names: Iterable[str]) -> list[str]:
        """The files that hold these tensors."""
        return sorted({piece.file for name in names for piece in self.tensors[name].pieces})

    def read(self, name: str) -> torch.Tensor:
        """A tensor, in RAM.

        Raises:
            CheckpointError: Bytes that are not what was saved.
        """
        stored = self.tensors[name]
        for piece in stored.pieces:
            self._check_bytes(name, piece)
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        metadata = _describe(name, stored)
        reader = FileSystemReader(self.folder)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner({name: tensor}, metadata, True)
        reader.set_up_storage_reader(metadata, True)
        try:
            reader.read_data(planner.create_local_plan(), planner).wait()
        except _WRONG as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            files = ", ".join(self.list_files([name]))
            raise CheckpointError(
                f"{self.folder}: {name} cannot be read from {files}: {reason}", _FIX
            ) from error
        return tensor

    def _check_bytes(self, name: str, piece: Piece) -> None:
        """A piece is an archive of `torch.save`, with a sum over its bytes that torch does not look at."""
        path = self.folder / piece.file
        with path.open("rb") as stream:
            stream.seek(piece.begin)
            held = io.BytesIO(stream.read(piece.length))
        try:
            with zipfile.ZipFile(held) as archive:
                wrong = archive.testzip()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
            raise CheckpointError(
                f"{path}: what should be a piece of {name}, at byte {piece.begin:,}, is none", _FIX
            ) from error
        if wrong:
            raise CheckpointError(
                f"{path}: the bytes of {name} from {piece.begin:,} on are not those that were written", _FIX
            )


def show_shape(shape: Iterable[int]) -> str:
    """`512 x 64`."""
    return " x ".join(map(str, shape)) or "one number"


def _describe(name: str, stored: Stored) -> Metadata:
    """One tensor, in torch's words."""
    chunks = [
        ChunkStorageMetadata(torch.Size(piece.offset), torch.Size(piece.shape)) for piece in stored.pieces
    ]
    places = {
        MetadataIndex(name, piece.offset): _Place(piece.file, piece.begin, piece.length)
        for piece in stored.pieces
    }
    shape = torch.Size(stored.shape)
    return Metadata(
        {name: TensorStorageMetadata(TensorProperties(dtype=stored.dtype), shape, chunks)},
        storage_data=places,
    )


def _is_whole(stored: Stored) -> bool:
    """Whether the pieces cover each number of the tensor once.

    The borders of all pieces cut the tensor into cells; each cell is in one piece.
    """
    pieces = [piece for piece in stored.pieces if prod(piece.shape)]
    ends = [tuple(map(sum, zip(piece.offset, piece.shape, strict=True))) for piece in pieces]
    if any(len(end) != len(stored.shape) for end in ends):
        return False
    if sum(prod(piece.shape) for piece in pieces) != prod(stored.shape):
        return False
    borders = [
        sorted({0, size, *(piece.offset[dim] for piece in pieces), *(end[dim] for end in ends)})
        for dim, size in enumerate(stored.shape)
    ]
    if any(cuts[-1] > size for cuts, size in zip(borders, stored.shape, strict=True)):
        return False
    if prod(map(len, borders)) > _MOST_CELLS:
        return False
    cells = np.zeros([len(cuts) - 1 for cuts in borders], dtype=bool)
    for piece, end in zip(pieces, ends, strict=True):
        place = tuple(
            slice(cuts.index(first), cuts.index(last))
            for cuts, first, last in zip(borders, piece.offset, end, strict=True)
        )
        cells[place] = True
    return bool(cells.all())
