"""The proof table: rows chosen, each tried in its cells, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from siredon.errors import SiredonError
from siredon.registry import Shelf
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Measure, Row, build_grid
from siredon.selftest.wanted import Wanted
from siredon.selftest.whole import Verbs

ROWS = Shelf("siredon.selftest.rows", "ROW", "selftest")

Status = Literal["passed", "failed", "could not run"]


@dataclass(frozen=True)
class Tried:
    """A cell of a row.

    Args:
        cell: Which.
        finding: What was found.
        seconds: How long it took.
    """

    cell: Cell
    finding: Finding
    seconds: float

    @property
    def status(self) -> Status:
        """A cell that could not run has not passed."""
        if self.finding.failed:
            return "failed"
        return "could not run" if self.finding.skipped_because else "passed"


@dataclass(frozen=True)
class Result:
    """A row and all its cells.

    Args:
        name: The word for the row.
        row: What it claims.
        tried: Its cells, in order.
    """

    name: str
    row: Row
    tried: tuple[Tried, ...]

    @property
    def status(self) -> Status:
        """A row fails with one of its cells, and passes only if at least one cell ran."""
        found = {cell.status for cell in self.tried}
        if "failed" in found:
            return "failed"
        return "passed" if "passed" in found else "could not run"

    @property
    def worst(self) -> Measure | None:
        """The worst figure of all cells."""
        every = tuple(measure for cell in self.tried for measure in cell.finding.measures)
        return Finding(every).worst

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why cells could not run, each reason once."""
        found = (cell.finding.skipped_because for cell in self.tried)
        return tuple(dict.fromkeys(reason for reason in found if reason))


@dataclass(frozen=True)
class Table:
    """All results.

    Args:
        results: By number of the row.
        device: What they were found on, for people.
        seconds: How long it took.
        is_quick: Few cells only.
    """

    results: tuple[Result, ...]
    device: str
    seconds: float
    is_quick: bool

    def count(self, status: Status) -> int:
        """How many rows have come to this."""
        return sum(result.status == status for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.count("failed") == 0


def choose_rows(names: Sequence[str]) -> dict[str, Row]:
    """The rows of these names, or all, by their numbers.

    Raises:
        UnknownPartError: No row has one of the names.
    """
    rows = {name: ROWS.load(name) for name in names or ROWS.names()}
    return dict(sorted(rows.items(), key=lambda item: (item[1].number, item[0])))


def run_table(wanted: Wanted, say: Callable[[str], None], verbs: Verbs | None = None) -> Table:
    """Runs the rows.

    Args:
        wanted: Which rows, where, in how many cells.
        say: Takes a line on what is going on.
        verbs: What trains and what merges; rows that need a whole run could not run without them.

    Raises:
        UnknownPartError: No row has one of the names.
        TrainingError: There is no such device.
    """
    began = time.perf_counter()
    rows = choose_rows(wanted.names)
    with Rig(wanted.device, verbs=verbs) as rig:
        grid = build_grid(quick=wanted.is_quick)
        _start_ranks(rig, rows, grid)
        results = []
        # Those of several ranks come last: their processes need a while to import their libraries
        order = sorted(rows.items(), key=lambda item: any(cell.num_ranks > 1 for cell in item[1].cells(grid)))
        for place, (name, row) in enumerate(order, 1):
            tried = run_row(rig, row, grid, lambda cell: say(f"{place} of {len(rows)}  {name}: {cell}"))  # noqa: B023
            results.append(Result(name, row, tuple(tried)))
        device = rig.hardware.describe()
    results.sort(key=lambda result: result.row.number)
    return Table(tuple(results), device, time.perf_counter() - began, wanted.is_quick)


def _start_ranks(rig: Rig, rows: dict[str, Row], grid: Grid) -> None:
    """Lets two ranks import their libraries while rows of one rank run; more would take the cores from these."""
    two = (
        cell
        for row in rows.values()
        for cell in row.cells(grid)
        if cell.num_ranks == 2 and not rig.explain_missing(cell)
    )
    if next(two, None) is not None:
        rig.start_ranks(2)


def run_row(rig: Rig, row: Row, grid: Grid, say: Callable[[str], None]) -> Iterator[Tried]:
    """Tries a row in all its cells."""
    for cell in row.cells(grid):
        say(cell.describe())
        began = time.perf_counter()
        yield Tried(cell, try_cell(rig, row, cell), time.perf_counter() - began)


def try_cell(rig: Rig, row: Row, cell: Cell) -> Finding:
    """What is found in one cell; a cell that cannot run says why, and one that breaks has failed."""
    reason = rig.explain_missing(cell)
    if reason:
        return Finding(skipped_because=reason)
    try:
        return row.run(rig, cell)
    except SiredonError as error:
        return Finding(error=error.message)
    except Exception as error:  # noqa: BLE001 - whatever breaks a row, the others still run, and this one has failed
        return Finding(error=f"{type(error).__name__}: {error}")
