"""`--format gguf`: one file for llama.cpp, Ollama, LM Studio and their like."""

from __future__ import annotations

from pathlib import Path

from siredon.export.card import try_card
from siredon.export.file import file_written_beside
from siredon.export.gguf_check import check_gguf
from siredon.export.gguf_write import check_type, write_gguf
from siredon.export.round_trip import show_checks
from siredon.export.source import Source
from siredon.export.wanted import Export
from siredon.log import note


def export_gguf(source: Source, wanted: Export) -> Path:
    """Writes the file, reads it back, and puts it in its place if it is the same model.

    Raises:
        ModelError: Something that GGUF cannot hold, or a file that is not the same model.
    """
    word = check_type(wanted.type)
    path = wanted.output or source.run / "gguf" / f"{source.name}-{word}.gguf"
    with file_written_beside(path) as draft:
        write_gguf(source, word, draft)
        note("reading it back")
        show_checks(path.name, check_gguf(source, draft))
    if wanted.output is None:
        try_card(path.parent)
    return path


EXPORT = export_gguf
