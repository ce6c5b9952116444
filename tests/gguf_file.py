"""A model of the tests in a GGUF file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from siredon.export.gguf_write import write_gguf as write_folder
from siredon.export.source import Source


def write_gguf(model: Any, tokenizer: Any, path: Path) -> Path:
    """Writes a model of transformers and its tokenizer to `path`, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_folder(Source(Path(folder), Path(folder)), "f32", path)
    return path
