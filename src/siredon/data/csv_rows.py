"""CSV and TSV files: the first line names the columns, every cell is text, and an empty one is None."""

from __future__ import annotations

import csv
import sys
from array import array
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np

from siredon.data.file_rows import FileRows, PieceError, TextFile, decode_text
from siredon.data.types import Row

_SEPARATORS = (",", "\t", ";")


def open_csv(file: TextFile, separator: str = ",") -> FileRows:
    """The rows under the header.

    Args:
        file: The file.
        separator: Between cells, unless the header has another one of comma, tab and semicolon only.

    Raises:
        DataError: No header, two columns of one name, a quote that is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # Python's own limit is 131,072 characters, which a document passes
    start = file.skip_bom()
    separator = _find_separator(file, start, separator)
    starts, ends = array("q"), array("q")
    header: list[str] = []
    for first, last, cells in _find_rows(file, start, separator):
        if header:
            starts.append(first)
            ends.append(last)
        else:
            header = _check_header(file, cells)
    parse = partial(parse_csv, header=tuple(header), separator=separator)
    return FileRows(file, np.array(starts, np.int64), np.array(ends, np.int64), parse)


def parse_csv(data: bytes, header: tuple[str, ...], separator: str) -> Row:
    """One row; cells that are not there at its end are None.

    Raises:
        PieceError: More cells than columns, or a wrong quote.
    """
    try:
        cells = next(csv.reader([decode_text(data)], delimiter=separator, strict=True))
    except csv.Error as error:
        raise PieceError(f"no CSV: {error}") from error
    if len(cells) > len(header):
        raise PieceError(f"{len(cells)} cells, but {len(header)} columns; text with a separator needs quotes")
    cells += [""] * (len(header) - len(cells))
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _find_separator(file: TextFile, start: int, separator: str) -> str:
    with file.path.open("rb") as stream:
        stream.seek(start)
        header = stream.readline().decode(errors="replace")
    there = [mark for mark in _SEPARATORS if mark in header]
    return there[0] if len(there) == 1 else separator


def _find_rows(file: TextFile, start: int, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """First byte of each row, the byte after its last, and its cells; empty lines are none."""
    with file.path.open("rb") as stream:
        stream.seek(start)
        lines = _Lines(stream, start)
        first, line = start, 1
        try:
            for cells in csv.reader(lines, delimiter=separator, strict=True):
                if cells:
                    yield first, lines.end, cells
                first, line = lines.end, lines.count + 1
        except csv.Error as error:
            begun = f" in the row that begins in line {line}" if line != lines.count else ""
            raise file.error(f": line {lines.count}: no CSV: {error}{begun}") from error
        except PieceError as error:
            raise file.error(f": line {lines.count}: {error}") from error


class _Lines:
    """Lines of a file as text; knows how many there were, and the byte after the last."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self.stream, self.end, self.count = stream, start, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline()
        if not line:
            raise StopIteration
        self.end += len(line)
        self.count += 1
        return decode_text(line)


def _check_header(file: TextFile, cells: list[str]) -> list[str]:
    twice = sorted({name for name in cells if name and cells.count(name) > 1})
    if twice:
        raise file.error(
            f": line 1: the column `{twice[0]}` is there twice", "Give each column its own name."
        )
    return cells
