"""Columns of a row, read with an error that names them."""

from __future__ import annotations

from typing import Any, NamedTuple

from siredon.data.types import Row, RowError


class Turn(NamedTuple):
    """Who speaks, in the words of the data, and what."""

    role: str
    text: str


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


def read_filled(row: Row, name: str) -> str:
    """The text in a column that must hold some.

    Raises:
        RowError: Missing, null, no text, or nothing but blanks.
    """
    text = read_text(row, name)
    if not text.strip():
        raise RowError(f"column `{name}` is empty")
    return text


def read_nullable(row: Row, name: str) -> str:
    """The text in a column that must be there and may be null or empty.

    Raises:
        RowError: Missing, or neither text nor null.
    """
    return "" if read_column(row, name) is None else read_text(row, name)


def read_turns(row: Row, name: str, role: str, text: str) -> list[Turn]:
    """The messages in a column, each an object with a role and a text.

    Args:
        row: The row.
        name: The column.
        role: Property of a message that says who speaks.
        text: Property of a message that holds what is said.

    Raises:
        RowError: No list of such messages, or one of them is empty.
    """
    value = read_column(row, name)
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{name}` holds no list of messages")
    return [_read_turn(item, number, role, text) for number, item in enumerate(value, start=1)]


def _read_turn(item: object, number: int, role: str, text: str) -> Turn:
    if not isinstance(item, dict):
        raise RowError(f"message {number} is no object")
    for name in (role, text):
        if not isinstance(item.get(name), str) or not item[name].strip():
            raise RowError(f"message {number} has no text in `{name}`")
    return Turn(item[role], item[text])
