"""Where text for people goes: results to stdout, progress and warnings to stderr.

Nothing here runs at import; `rich` is loaded by the first call that needs a terminal.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from siredon.redaction import redact


def is_main_process() -> bool:
    """Whether this process speaks for the run: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` can show a moving line (a terminal that is not `TERM=dumb`)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def show(text: str = "", *, verbatim: bool = False) -> None:
    """Writes one result line to stdout, on the main process only.

    Args:
        text: The line, from which secrets are taken out.
        verbatim: It is data, or what a model wrote, and shown as it is.
    """
    if is_main_process():
        sys.stdout.write((text if verbatim else redact(text)) + "\n")
        sys.stdout.flush()


def note(text: str) -> None:
    """Writes one progress or information line to stderr, without secrets, on the main process only."""
    if is_main_process():
        sys.stderr.write(redact(text) + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Writes one warning line to stderr, on the main process only."""
    note(f"warning: {text}")
