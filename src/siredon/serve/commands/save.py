"""`/save FILE`: writes the conversation as a row of training data."""

from __future__ import annotations

import json
from pathlib import Path

from siredon.errors import DataError
from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Appends the conversation to a JSON-lines file; one that was saved there before, and is still last, is replaced.

    Raises:
        DataError: Nothing was said, no file is named, or it cannot be written.
    """
    if not rest:
        raise DataError("`/save` needs a file", "Name one, such as `/save talks.jsonl`.")
    if not talk.questions:
        raise DataError("nothing was said", "Ask first.")
    path = Path(rest).expanduser().absolute()
    row = json.dumps({"messages": talk.full(talk.main)}, ensure_ascii=False) + "\n"
    try:
        talk.saved = _write(path, row.encode(), talk.saved)
    except OSError as error:
        raise DataError(f"{rest} cannot be written: {error.strerror}", "Name another file.") from error
    return Reply(f"Saved to {rest}: a row for `type: chat_template`.")


def _write(path: Path, row: bytes, saved: tuple[Path, int, int] | None) -> tuple[Path, int, int]:
    """Writes the row, and says where it lies."""
    with path.open("a+b") as file:
        end = file.seek(0, 2)
        if saved and saved[0] == path and saved[2] == end:
            file.truncate(saved[1])
            end = saved[1]
        if end:
            file.seek(end - 1)
            row = row if file.read(1) == b"\n" else b"\n" + row
        file.write(row)
    return path, end, end + len(row)


COMMAND = Command("/save FILE", "Append the conversation to a JSONL file, as a row of training data.", run)
