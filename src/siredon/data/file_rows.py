"""Rows that are pieces of a text file: found once, parsed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siredon.data.rows import Indices, Rows
from siredon.data.scratch import Allowance, Scratch
from siredon.data.types import Row
from siredon.errors import DataError

#: Bytes that are read at once at most, but for a longer row.
_BLOCK_BYTES = 1 << 20
#: Rows with more bytes than this between them are read one by one.
_GAP_BYTES = 1 << 12
_MAX_PROBLEMS = 5
#: Marks of a file in UTF-8, which are skipped, and in other encodings, which are refused.
BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class PieceError(ValueError):
    """A piece of a file that is no row.

    Args:
        message: What is wrong; `FileRows` puts file and line before it.
        line: Line of the piece, from 0, that is to blame.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class TextFile:
    """A file on this machine, and how messages call it.

    Args:
        path: Where it is.
        label: What the user wrote, and the file inside of it.
        scratch: What keeps it there, if it is a temporary one.
        allowance: What may come of the packed file that it was in, if it was in one.
        num_layers: How many packed files, one inside the other, it was in.
    """

    path: Path
    label: str
    scratch: Scratch | None = None
    allowance: Allowance | None = None
    num_layers: int = 0

    def unpacked(self, path: Path, label: str, scratch: Scratch | None) -> TextFile:
        """A file that came out of this one."""
        allowance = self.allowance or Allowance(self.path.stat().st_size)
        return TextFile(path, label, scratch, allowance, self.num_layers + 1)

    def error(self, message: str, fix: str = "Correct the file.") -> DataError:
        """What is wrong with this file; `message` goes on after its name."""
        return DataError(f"{self.label}{message}", fix)

    def skip_bom(self) -> int:
        """Where the text begins.

        Raises:
            DataError: It is not in UTF-8, by its first bytes.
        """
        with self.path.open("rb") as stream:
            head = stream.read(4)
        for bom, encoding in _OTHER_BOMS.items():
            if head.startswith(bom):
                raise self.error(f": the text is in {encoding}", "Save the file as UTF-8.")
        return len(BOM) if head.startswith(BOM) else 0


@dataclass(frozen=True, eq=False)
class FileRows(Rows):
    """Pieces of a file, each a row.

    Args:
        file: The file.
        starts: First byte of each row.
        ends: The byte after its last.
        parse: The bytes of a row -> the row.  Raises `PieceError`.
    """

    file: TextFile
    starts: Indices
    ends: Indices
    parse: Callable[[bytes], Row]

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        try:
            yield from self._read(indices)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise self.file.error(f": cannot be read ({reason})", "Leave the file in its place.") from error

    def _read(self, indices: Indices) -> Iterator[Row]:
        problems: list[str] = []
        for index, piece in self._pieces(indices):
            try:
                row = self.parse(piece)
            except PieceError as error:
                line = self._line(index) + error.line
                problems.append(f"{self.file.label}: line {line}: {error}")
                if len(problems) == _MAX_PROBLEMS:
                    break
            else:
                if not problems:
                    yield row
        if problems:
            more = " (and perhaps more)" if len(problems) == _MAX_PROBLEMS else ""
            raise DataError("\n".join(problems) + more, "Correct or remove these rows.")

    def place(self, index: int) -> str:
        """File and row, and the line where it has another number."""
        line = self._line(index)
        return f"{self.file.label}: row {index + 1}" + (f" (line {line})" if line != index + 1 else "")

    def _pieces(self, indices: Indices) -> Iterator[tuple[int, bytes]]:
        """Rows and their bytes: neighbours are read from the disk together."""
        starts, ends = self.starts[indices], self.ends[indices]
        is_far = starts[1:] - ends[:-1] > _GAP_BYTES
        is_full = starts[1:] // _BLOCK_BYTES != starts[:-1] // _BLOCK_BYTES
        cuts = (np.flatnonzero(is_far | is_full) + 1).tolist()
        with self.file.path.open("rb", buffering=0) as stream:
            for first, last in zip([0, *cuts], [*cuts, len(indices)], strict=True):
                if first == last:
                    continue
                base = int(starts[first])
                stream.seek(base)
                block = stream.read(int(ends[last - 1]) - base)
                if base + len(block) != ends[last - 1]:
                    raise self.file.error(" became shorter while it was read", "Start again.")
                numbers = indices[first:last].tolist()
                where = zip(
                    (starts[first:last] - base).tolist(), (ends[first:last] - base).tolist(), strict=True
                )
                for number, (start, end) in zip(numbers, where, strict=True):
                    yield number, block[start:end]

    def _line(self, index: int) -> int:
        """The line in which a row begins, from 1."""
        return 1 + count_lines(self.file.path, int(self.starts[index]))


def count_lines(path: Path, end: int) -> int:
    """Line ends before byte `end`."""
    count = 0
    with path.open("rb") as stream:
        while end > 0 and (block := stream.read(min(end, _BLOCK_BYTES))):
            count += block.count(b"\n")
            end -= len(block)
    return count


def decode_text(data: bytes) -> str:
    """Bytes as text.

    Raises:
        PieceError: They are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start)
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise PieceError(f"byte 0x{data[error.start]:02x} at column {column} is no UTF-8", line) from error
