"""The results of a sweep: sweep.jsonl, sweep.csv, and a table on the terminal that names the best run."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from siredon.errors import SiredonError
from siredon.log import is_terminal, show
from siredon.redaction import redact_values
from siredon.sweep.trial import show_value, show_values

VALIDATION = "validation loss"
TRAINING = "training loss"

#: Columns of a table that is not shown on a terminal.
_WIDTH = 200
#: Columns that a table takes without settings and folders, and the least that are left for them.
_FIXED_WIDTH = 56
_NARROW = 24


@dataclass(frozen=True)
class Record:
    """What is known of one trial.

    Args:
        number: Its place in the sweep.
        settings: Dotted key -> value.
        status: `diverged`: its loss is no number, at its end or at the bad step that ended it.
        folder: What it wrote; empty if it could not begin.
        config: Hash of its configuration.
        metric: The last loss; None if there is none.
        metric_name: Which loss that is.
        steps: Optimizer steps.
        tokens_per_second: The median over the run.
        minutes: How long the process took that ended it.
        exit_code: Of that process; below 0 the signal that stopped it.
        error: The last line that says what went wrong.
    """

    number: int
    settings: dict[str, Any]
    status: Literal["unfinished", "finished", "diverged", "failed"]
    folder: str
    config: str
    metric: float | None = None
    metric_name: str = ""
    steps: int | None = None
    tokens_per_second: float | None = None
    minutes: float | None = None
    exit_code: int | None = None
    error: str = ""

    @property
    def is_done(self) -> bool:
        """Whether running it again would only give the same."""
        return self.status in ("finished", "diverged")


class Book:
    """The records of a sweep on disk; each file is replaced as a whole.

    Args:
        folder: Where they are kept.

    Raises:
        SiredonError: A line that is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[Record] = []
        self._known = {record.config: record for record in self._read("earlier.jsonl")}
        self._known |= {record.config: record for record in self._read("sweep.jsonl")}
        # What an earlier sweep found is kept until this one has taken it over, and the rest of it for good
        self._write_earlier()

    def recall(self, digest: str) -> Record | None:
        """What is known of a configuration from an earlier sweep."""
        return self._known.get(digest)

    def find(self, digest: str) -> Record | None:
        """The record of a configuration in this sweep."""
        return next((record for record in self.records if record.config == digest), None)

    def put(self, record: Record) -> None:
        """Adds a record, or replaces that of the same configuration, and writes the files."""
        self.records = [other for other in self.records if other.config != record.config]
        self.records = sorted([*self.records, record], key=lambda other: other.number)
        self._write("sweep.jsonl", _to_lines(self.records))
        self._write("sweep.csv", _to_csv(self.records))

    def close(self) -> None:
        """Forgets of earlier sweeps what is in this one."""
        for record in self.records:
            self._known.pop(record.config, None)
        self._write_earlier()

    def _write_earlier(self) -> None:
        if self._known:
            self._write("earlier.jsonl", _to_lines(self._known.values()))
        else:
            (self.folder / "earlier.jsonl").unlink(missing_ok=True)

    def _read(self, name: str) -> list[Record]:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.is_file() else []
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(Record(**json.loads(line)))
            except (ValueError, TypeError):
                message = f"{path}, line {number}, is no record of a sweep"
                raise SiredonError(message, "Remove the line: that trial then runs again.") from None
        return records

    def _write(self, name: str, text: str) -> None:
        beside = self.folder / f".{name}"
        beside.write_text(text)
        os.replace(beside, self.folder / name)


def find_best(records: Iterable[Record]) -> Record | None:
    """The finished run with the least validation loss; with the least training loss where no run has another."""
    judged = [record for record in records if record.metric is not None]
    validated = [record for record in judged if record.metric_name == VALIDATION]
    return min(validated or judged, key=lambda record: (record.metric, record.number), default=None)


def show_results(records: Sequence[Record], folder: Path) -> None:
    """Shows the table, what failed, and the best run with its settings and folder."""
    best = find_best(records)
    show(render_table(records, best, _num_columns()))
    for record in records:
        if record.status == "failed":
            show(f"trial {record.number} failed: {record.error}")
    if best is not None:
        show(f"best:    trial {best.number}, {best.metric_name} {best.metric:.4f}")
        show(f"         {'  '.join(show_values(best.settings))}")
        show(f"         {best.folder}")
    show(f"results: {folder / 'sweep.jsonl'}, {folder / 'sweep.csv'}")


def render_table(records: Sequence[Record], best: Record | None, width: int) -> str:
    """The table as text; the best run has a star.

    Args:
        records: The rows.
        best: The best of them.
        width: Columns of the screen.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = {record.metric_name for record in records if record.metric_name}
    loss = "loss" if len(names) != 1 else next(iter(names)).replace(" ", "\n")
    # Folders begin with the number: where there is little room they are cut, and settings are not
    room = max(_NARROW, width - _FIXED_WIDTH)
    longest = max((len(line) for record in records for line in show_values(record.settings)), default=0)
    settings = min(max(longest, len("settings")), room - len("0001-…"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold", width=settings)
    for name in (loss, "steps", "tokens/s", "minutes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("folder", overflow="ellipsis", no_wrap=True, max_width=room - settings)
    for record in records:
        table.add_row(*_cells(record, is_best=record is best, is_mixed=len(names) > 1))
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def _cells(record: Record, *, is_best: bool, is_mixed: bool) -> list[str]:
    loss = "" if record.metric is None else f"{record.metric:.4f}"
    if is_mixed and loss:
        loss = f"{loss} {record.metric_name.partition(' ')[0]}"
    return [
        f"{'* ' if is_best else ''}{record.number}",
        "\n".join(show_values(redact_values(record.settings))),
        loss,
        "" if record.steps is None else f"{record.steps:,}",
        "" if record.tokens_per_second is None else f"{record.tokens_per_second:,.0f}",
        "" if record.minutes is None else f"{record.minutes:.1f}",
        record.status,
        Path(record.folder).name,
    ]


def _num_columns() -> int:
    return os.get_terminal_size(sys.stdout.fileno()).columns if is_terminal(sys.stdout) else _WIDTH


def _to_lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(redact_values(asdict(record)), ensure_ascii=False) + "\n" for record in records)


def _to_csv(records: Sequence[Record]) -> str:
    """One column for each key that is swept, between the number and the rest."""
    keys = list(dict.fromkeys(key for record in records for key in record.settings))
    rest = [field.name for field in fields(Record) if field.name not in ("number", "settings")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["number", *keys, *rest])
    for record in records:
        row = redact_values(asdict(record))
        values = [show_value(row["settings"][key]) if key in record.settings else "" for key in keys]
        writer.writerow([record.number, *values, *(row[name] for name in rest)])
    return stream.getvalue()
