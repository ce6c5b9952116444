"""`--format safetensors`: a model folder in another number format, or in other shards."""

from __future__ import annotations

from pathlib import Path

import torch

from siredon.errors import ModelError
from siredon.export.file import check_replaceable
from siredon.export.folder import copy_record, written_beside
from siredon.export.round_trip import Check, show_checks
from siredon.export.shards import compare_weights, copy_rest, parse_bytes, write_shards
from siredon.export.source import Source
from siredon.export.wanted import Wanted
from siredon.log import note
from siredon.registry import suggest

_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def export_safetensors(source: Source, wanted: Wanted) -> Path:
    """Writes the folder, reads it back, and puts it in its place if every bit of it is right.

    Raises:
        ModelError: No such type or size, a value that the type cannot hold, or a folder that is not the same model.
    """
    word = wanted.type
    if word is not None and word not in _TYPES:
        raise ModelError(
            f"--type {word}: no type of safetensors that is written here",
            f"{suggest(word, _TYPES)}Known: {', '.join(_TYPES)}; without `--type` all stays as it is. "
            "`siredon quantize` writes fewer bits.",
        )
    dtype = _TYPES[word] if word else None
    max_bytes = parse_bytes(wanted.max_shard_size)
    folder = wanted.output or source.run / "safetensors"
    check_replaceable(folder)
    with written_beside(folder) as draft:
        num_files = write_shards(source, draft, dtype, max_bytes)
        copy_rest(source, draft, dtype)
        copy_record(source.run, draft)
        note("reading it back")
        files = Check("files", f"{num_files} with at most {wanted.max_shard_size} each")
        show_checks(folder.name, [files, *compare_weights(source, draft, dtype)])
    return folder


EXPORT = export_safetensors
