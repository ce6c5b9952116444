"""Checkpoints in pieces without the ranks: files as PyTorch's `distributed.checkpoint` writes them, from one process.

`tests/runs/test_consolidate.py` holds the same of real ranks, too.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)


def write_pieces(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    path: tuple[str, ...] = ("model",),
    ranks: tuple[int, ...] = (2,),
    num_others: int = 0,
) -> None:
    """Cuts each tensor along its first dimensions, as meshes of so many ranks do, and writes a file for each rank."""
    folder.mkdir(parents=True)
    files = [io.BytesIO() for _ in product(*map(range, ranks))]
    stored, places, paths = {}, {}, {}
    for name, tensor in tensors.items():
        key = ".".join((*path, name))
        paths[key] = (*path, name)
        chunks = []
        for number, piece in enumerate(product(*map(range, ranks[: tensor.dim()]))):
            widths = [-(-size // count) for size, count in zip(tensor.shape, ranks, strict=False)]
            cut = tensor[
                tuple(slice(at * width, (at + 1) * width) for at, width in zip(piece, widths, strict=True))
            ]
            if not cut.numel() and tensor.numel():
                continue
            offset = [at * width for at, width in zip(piece, widths, strict=True)]
            offset += [0] * (tensor.dim() - len(offset))
            chunks.append(ChunkStorageMetadata(torch.Size(offset), cut.shape))
            begin = files[number].tell()
            torch.save(cut.clone(), files[number])
            place = _StorageInfo(f"__{number}_0.distcp", begin, files[number].tell() - begin)
            places[MetadataIndex(key, offset, len(chunks) - 1)] = place
        properties = TensorProperties.create_from_tensor(tensor)
        stored[key] = TensorStorageMetadata(properties, tensor.shape, chunks)
    for number in range(num_others):
        stored[f"step.{number}"] = BytesStorageMetadata()
    for number, file in enumerate(files):
        (folder / f"__{number}_0.distcp").write_bytes(file.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(stored, paths, places)))
