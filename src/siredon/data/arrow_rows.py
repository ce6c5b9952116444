"""Parquet and Arrow files, and data sets of `datasets`: rows that are stored by column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siredon.data.file_rows import TextFile
from siredon.data.rows import BLOCK_ROWS, Indices, Rows
from siredon.data.scratch import Scratch
from siredon.data.types import Row
from siredon.errors import DataError

#: A value as Arrow gives it -> as it was stored.
Decode = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class ArrowRows(Rows):
    """Rows of a Parquet or Arrow file.

    Args:
        file: The file.
        kind: Which of the two.
        sizes: Rows in each of its groups, which are read whole.
    """

    file: TextFile
    kind: Literal["parquet", "arrow"]
    sizes: Indices

    jumps = False

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        import pyarrow as pa

        ends = self.sizes.cumsum()
        groups = np.unique(np.searchsorted(ends, indices, side="right")).tolist()
        decode: dict[str, Decode] | None = None
        try:
            for group, start, batch in self._read_groups(groups):
                if decode is None:
                    decode = _find_decoders(batch.schema)
                first = int(ends[group] - self.sizes[group]) + start
                low, high = np.searchsorted(indices, [first, first + batch.num_rows])
                wanted = indices[low:high] - first
                whole = len(wanted) == batch.num_rows
                chosen = batch if whole else batch.take(pa.array(wanted))
                yield from _decode_rows(chosen.to_pylist(), decode)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise _blame(self.file, self.kind, error) from error

    def place(self, index: int) -> str:
        """File and row."""
        return f"{self.file.label}: row {index + 1}"

    def _read_groups(self, groups: Sequence[int]) -> Iterator[tuple[int, int, Any]]:
        """Group, number in it of the first row, and record batch; no batch is large."""
        if self.kind == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(self.file.path, memory_map=True) as parquet:
                for group in groups:
                    start = 0
                    for batch in parquet.iter_batches(BLOCK_ROWS, row_groups=[group]):
                        yield group, start, batch
                        start += batch.num_rows
            return
        with _open_ipc(self.file.path) as batches:
            for group, batch in enumerate(batches):
                if group in groups:
                    for start in range(0, batch.num_rows, BLOCK_ROWS):
                        yield group, start, batch.slice(start, BLOCK_ROWS)


@dataclass(frozen=True, eq=False)
class DatasetRows(Rows):
    """Rows that `datasets` has loaded.

    Args:
        dataset: A `datasets.Dataset`.
        label: How messages call it.
        scratch: What keeps its files there, if they are temporary.
    """

    dataset: Any
    label: str
    scratch: Scratch | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Indices) -> Iterator[Row]:
        """The rows at `indices`, which ascend."""
        for start in range(0, len(indices), BLOCK_ROWS):
            block = indices[start : start + BLOCK_ROWS]
            first, end = int(block[0]), int(block[-1]) + 1
            columns = self.dataset[first:end] if end - first == len(block) else self.dataset[block.tolist()]
            names = list(columns)
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(names, values, strict=True))

    def place(self, index: int) -> str:
        """Data set and row."""
        return f"{self.label}: row {index + 1}"


def open_parquet(file: TextFile) -> ArrowRows:
    """The rows of a Parquet file.

    Raises:
        DataError: It is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            facts = parquet.metadata
            sizes = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _blame(file, "parquet", error) from error
    return ArrowRows(file, "parquet", np.array(sizes, np.int64))


def open_arrow(file: TextFile) -> ArrowRows:
    """The rows of an Arrow file, in the format of files or of streams.

    Raises:
        DataError: It is neither.
    """
    import pyarrow as pa

    try:
        with _open_ipc(file.path) as batches:
            sizes = [batch.num_rows for batch in batches]
    except (pa.ArrowException, OSError) as error:
        raise _blame(file, "arrow", error) from error
    return ArrowRows(file, "arrow", np.array(sizes, np.int64))


@contextmanager
def _open_ipc(path: Path) -> Iterator[Iterator[Any]]:
    """The record batches of a file, mapped into memory and not read."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            source.seek(0)
            yield iter(pa.ipc.open_stream(source))


def _blame(file: TextFile, kind: str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return file.error(f": cannot be read as {kind.capitalize()}: {reason}", "Check the file and `ds_type`.")


def _decode_rows(rows: list[Any], decode: dict[str, Decode]) -> list[Any]:
    for name, read in decode.items():
        for row in rows:
            row[name] = read(row[name])
    return rows


def _find_decoders(schema: Any) -> dict[str, Decode]:
    """Columns that hold JSON in text, which is how `datasets` stores values of several types."""
    return {field.name: read for field in schema if (read := _find_decoder(field.type)) is not None}


def _find_decoder(kind: Any) -> Decode | None:
    import pyarrow as pa

    if isinstance(kind, pa.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _find_decoder(kind.value_type)
        return None if item is None else lambda value: value and [item(one) for one in value]
    if pa.types.is_struct(kind):
        fields = _find_decoders(kind)
        return (lambda value: value and _decode_rows([value], fields)[0]) if fields else None
    return None
