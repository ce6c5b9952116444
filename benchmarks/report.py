"""What a benchmark has found: shown, and kept where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_report(lines: Sequence[str], output: Path | None) -> None:
    """Shows the lines of a page, and writes them to a file if there is one, whose folder is made."""
    text = "\n".join(lines) + "\n"
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
