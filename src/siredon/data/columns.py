"""Columns of a row, read with an error that names them."""

from __future__ import annotations

from typing import Any

from siredon.data.types import Row, RowError


def read_column(row: Row, name: str) -> Any:
    """The value of a column that must be there.

    Raises:
        RowError: It is not there; the message names the columns that are.
    """
    if name not in row:
        raise RowError(f"has no column `{name}`; it has {', '.join(f'`{key}`' for key in row)}")
    return row[name]


def read_text(row: Row, name: str, *, required: bool = True) -> str:
    """The text in a column; empty if it is not required and missing or null.

    Raises:
        RowError: Missing though required, null, or no text.
    """
    value = read_column(row, name) if required else row.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise RowError(f"column `{name}` holds {type(value).__name__}, not text")
    return value
