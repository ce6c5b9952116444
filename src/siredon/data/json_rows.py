"""JSON files: lines of objects, an array of objects, or objects one after another."""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

from siredon.data.file_rows import FileRows, PieceError, TextFile, count_lines, decode_text
from siredon.data.types import Row
from siredon.errors import DataError

_CHUNK_BYTES = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
#: The one thing that Python does not read although it is JSON.
_LONG_NUMBER = "a whole number has thousands of digits"
#: A value that ends this close to the end of what has been read may only be cut off.
_CUT_OFF = 16


def open_json(file: TextFile) -> FileRows:
    """The objects of a file, whichever way they are written.

    Raises:
        DataError: It is no JSON, or what it holds are no objects.
    """
    start = file.skip_bom()
    with file.path.open("rb") as stream:
        stream.seek(start)
        line = b""
        while not line.strip() and (line := stream.readline()):
            pass
    is_array = line.lstrip().startswith(b"[")
    return (
        _open_values(file, start, is_array=is_array)
        if is_array or _is_cut_off(line)
        else _open_lines(file, start)
    )


def _is_cut_off(line: bytes) -> bool:
    """Whether the value that begins on this line goes on after it."""
    try:
        text = line.decode().rstrip()
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (UnicodeDecodeError, RecursionError, ValueError):
        return False
    return False


def _open_lines(file: TextFile, start: int) -> FileRows:
    starts, ends = array("q"), array("q")
    with file.path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.isspace():
                starts.append(start)
                ends.append(start + len(line.rstrip()))
            start += len(line)
    return FileRows(file, np.array(starts), np.array(ends), parse_json)


def parse_json(data: bytes) -> Row:
    """One object.

    Raises:
        PieceError: It is none.
    """
    text = decode_text(data)
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"no JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
        raise PieceError(f"{what}, near `{_show_near(text, error.pos)}`", error.lineno - 1) from error
    except RecursionError as error:
        raise PieceError("the value is nested too deeply") from error
    except ValueError as error:
        raise PieceError(_LONG_NUMBER) from error
    if not isinstance(row, dict):
        raise PieceError(f"a row must be an object `{{...}}`, not {_name_kind(row)}")
    if _HALF_CHARACTER.search(data):
        _check_whole_characters(row)
    return row


def _show_near(text: str, position: int) -> str:
    return " ".join(text[max(position - 10, 0) : position + 20].split())


def _name_kind(value: Any) -> str:
    kinds: dict[type, str] = {list: "an array", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _check_whole_characters(row: Row) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode-escape").decode()
        raise PieceError(f"the text holds half a character (`{half}`)") from error


def _open_values(file: TextFile, start: int, *, is_array: bool) -> FileRows:
    """Where the objects of an array, or of a plain sequence, begin and end: each is parsed, none is kept."""
    starts, ends = array("q"), array("q")
    for first, last in _Scan(file, start, is_array=is_array).find_values():
        starts.append(first)
        ends.append(last)
    return FileRows(file, np.array(starts, np.int64), np.array(ends, np.int64), parse_json)


class _Scan:
    """Reads a file in chunks, and finds where its objects are."""

    def __init__(self, file: TextFile, start: int, *, is_array: bool) -> None:
        self.file, self.is_array = file, is_array
        self.text, self.at = "", 0
        #: Byte in the file of `text[0]`, and whether there is more to read.
        self.base, self.more = start, True
        #: A character of `text`, and its byte in the file.
        self._counted = (0, start)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode

    def find_values(self) -> Iterator[tuple[int, int]]:
        """First byte of each object, and the byte after its last."""
        with self.file.path.open("rb") as self._stream:
            self._stream.seek(self.base)
            if self.is_array:
                self._skip("[")
            end = ("]", "") if self.is_array else ("",)
            while self._peek() not in end:
                yield self._take_object()
                if self.is_array and self._peek() != "]":
                    self._skip(",")
                    if self._peek() == "]":
                        raise self._blame(self.at, "a comma before the end of the array")
            if self.is_array:
                self._skip("]")
                if self._peek():
                    raise self._blame(self.at, "more text after the end of the array")

    def _take_object(self) -> tuple[int, int]:
        if self.text[self.at] != "{":
            raise self._blame(self.at, "a row must be an object `{...}`")
        while True:
            try:
                _, end = self._scan(self.text, self.at)
            except json.JSONDecodeError as error:
                self._go_on(
                    error.pos,
                    error.msg.removesuffix(" at"),
                    is_open=error.msg.startswith("Unterminated string"),
                )
            except RecursionError:
                raise self._blame(self.at, "the value is nested too deeply") from None
            except ValueError:
                raise self._blame(self.at, _LONG_NUMBER) from None
            else:
                first = self._byte(self.at)
                self.at = end
                return first, self._byte(end)

    def _go_on(self, position: int, message: str, *, is_open: bool) -> None:
        """Reads more if that may complete the value; if not, it is wrong."""
        end = len(self.text.rstrip())
        if not self.more and position >= end:
            raise self._blame(end, "no JSON: the file ends inside of a value")
        if not self.more or not (is_open or position >= len(self.text) - _CUT_OFF):
            raise self._blame(position, f"no JSON: {message}")
        self._fill()

    def _peek(self) -> str:
        """The next character that is no blank; empty at the end of the file."""
        while True:
            found = _BLANK.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more:
                return ""
            self._fill()

    def _skip(self, mark: str) -> None:
        found = self._peek()
        if found != mark:
            what = f"`{found}`" if found else "the end of the file"
            raise self._blame(self.at, f"no JSON: `{mark}` expected, not {what}")
        self.at += 1

    def _fill(self) -> None:
        """Drops what is done, and reads as much again as is left, at least a chunk."""
        self.base = self._byte(self.at)
        self.text, self.at, self._counted = self.text[self.at :], 0, (0, self.base)
        data = self._stream.read(max(_CHUNK_BYTES, len(self.text)))
        self.more = bool(data)
        try:
            self.text += self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode()
            byte = error.object[error.start]
            raise self._blame(len(self.text), f"byte 0x{byte:02x} is no UTF-8") from error

    def _byte(self, position: int) -> int:
        """Byte in the file of a character, counted on from the last one that was asked for."""
        done, byte = self._counted
        between = position - done if self.text.isascii() else len(self.text[done:position].encode())
        self._counted = (position, byte + between)
        return byte + between

    def _blame(self, position: int, message: str) -> DataError:
        before = count_lines(self.file.path, self.base) + self.text.count("\n", 0, position)
        return self.file.error(f": line {before + 1}: {message}, near `{_show_near(self.text, position)}`")
