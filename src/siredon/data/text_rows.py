"""Text files: each is one row, with the column `text`."""

from __future__ import annotations

import numpy as np

from siredon.data.file_rows import FileRows, TextFile, decode_text
from siredon.data.types import Row


def open_text(file: TextFile) -> FileRows:
    """The whole text as one row; none if it is empty.

    Raises:
        DataError: It is not in UTF-8, by its first bytes.
    """
    start, end = file.skip_bom(), file.path.stat().st_size
    places = [place for place in [(start, end)] if start < end]
    starts, ends = (np.array([place[number] for place in places], np.int64) for number in (0, 1))
    return FileRows(file, starts, ends, parse_text)


def parse_text(data: bytes) -> Row:
    """Line ends of Windows become plain ones.

    Raises:
        PieceError: It is not UTF-8.
    """
    return {"text": decode_text(data).replace("\r\n", "\n")}
