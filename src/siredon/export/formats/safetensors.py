"""`--format safetensors`: a model folder in another number format, or in other shards."""

from __future__ import annotations

from pathlib import Path

from siredon.export.file import check_replaceable
from siredon.export.folder import copy_record, written_beside
from siredon.export.round_trip import Check, show_checks
from siredon.export.shards import compare_weights, copy_rest, parse_bytes, read_dtype, write_shards
from siredon.export.source import Source
from siredon.export.wanted import Export
from siredon.log import note


def export_safetensors(source: Source, wanted: Export) -> Path:
    """Writes the folder, reads it back, and puts it in its place if every bit of it is right.

    Raises:
        ModelError: No such type or size, a value that the type cannot hold, or a folder that is not the same model.
    """
    dtype = read_dtype("--type", wanted.type)
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
