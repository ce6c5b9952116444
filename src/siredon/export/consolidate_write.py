"""The tensors of a checkpoint written into files, one after another, and read again."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.errors import CheckpointError
from siredon.export.consolidate_plan import Plan
from siredon.export.dcp import Checkpoint
from siredon.export.shards import convert
from siredon.export.tensor_files import WEIGHTS, Shards, ShardWriter, list_shards
from siredon.log import warn
from siredon.model.adapter_folder import WEIGHTS as ADAPTER_WEIGHTS

#: Bytes that are hashed at a time.
_PART_BYTES = 2**24


@dataclass(frozen=True)
class Fact:
    """A tensor that was written.

    Args:
        shape: Its shape.
        dtype: Its format in the file.
        sha256: Of its bytes there.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sha256: str


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        facts: By the names in the files.
        stored: Formats in the checkpoint, and how many tensors have each.
        tied: Name of a weight that is the same as another -> that one; it is not written again.
    """

    facts: Mapping[str, Fact]
    stored: Mapping[torch.dtype, int]
    tied: Mapping[str, str]

    @property
    def formats(self) -> Counter[torch.dtype]:
        """Formats in the files, and how many tensors have each."""
        return Counter(fact.dtype for fact in self.facts.values())


def write_tensors(
    checkpoint: Checkpoint, plan: Plan, folder: Path, dtype: torch.dtype | None, max_bytes: int
) -> Written:
    """Reads, converts and writes one tensor after another.

    Of weights that are one in the model the first is written, and the others are held against it.

    Args:
        checkpoint: What is read.
        plan: What of it.
        folder: Where the files go.
        dtype: Of numbers with a fraction; None leaves each as it is.
        max_bytes: The largest file; an adapter is one file.

    Raises:
        CheckpointError: Bytes that are not what was saved.
        ModelError: A value that the format cannot hold.
    """
    facts: dict[str, Fact] = {}
    firsts: dict[str, str] = {}
    tied: dict[str, str] = {}
    limit = sys.maxsize if plan.is_adapter else max_bytes
    with ShardWriter(folder, plan.names_on_disk, limit) as writer:
        for name in sorted(plan.place, key=lambda name: plan.shared.get(name, name) != name):
            tensor = checkpoint.read(plan.place[name])
            first = plan.shared.get(name)
            if first is not None and first in firsts:
                if hash_tensor(tensor) == firsts[first]:
                    tied[name] = first
                    continue
                _untie_(plan.model, name, first)
            elif first is not None:
                firsts[first] = hash_tensor(tensor)
                name = first
            for key, value in plan.name_on_disk(name, tensor).items():
                written = convert(key, value, dtype)
                facts[key] = Fact(tuple(written.shape), written.dtype, hash_tensor(written))
                writer.write(key, written)
    if plan.is_adapter:
        (folder / WEIGHTS).rename(folder / ADAPTER_WEIGHTS)
    stored = Counter(checkpoint.tensors[key].dtype for key in plan.place.values())
    return Written(facts, stored, tied)


def _untie_(model: Any, name: str, first: str) -> None:
    warn(f"{name} and {first} are one weight in the model, and differ in the checkpoint: both are written")
    model.config.tie_word_embeddings = False


def check_written(folder: Path, plan: Plan, written: Written) -> int:
    """Reads every tensor again and holds its bytes against those that came out of the checkpoint.

    Returns:
        Bytes of all files.

    Raises:
        CheckpointError: A difference: the disk, or a mistake in siredon.
    """
    files = (folder / ADAPTER_WEIGHTS,) if plan.is_adapter else list_shards(folder)
    shards = Shards(files)
    odd = sorted({*shards} ^ {*written.facts})
    for name, fact in written.facts.items():
        if name not in odd:
            tensor = shards.read(name)
            if Fact(tuple(tensor.shape), tensor.dtype, hash_tensor(tensor)) != fact:
                odd.append(name)
    if odd:
        raise CheckpointError(
            f"{odd[0]} was read back as something else than was written to {folder.parent}",
            "Is the disk full, or failing? Write to another one by `--output`.",
        )
    return sum(file.stat().st_size for file in files)


def hash_tensor(tensor: torch.Tensor) -> str:
    """sha256 of its bytes, in hex."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    found = hashlib.sha256()
    for begin in range(0, flat.numel(), _PART_BYTES):
        found.update(flat[begin : begin + _PART_BYTES].numpy().data)
    return found.hexdigest()
