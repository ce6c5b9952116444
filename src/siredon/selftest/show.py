"""The proof table on a terminal, and as JSON."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

from siredon import __version__
from siredon.log import is_terminal, show
from siredon.selftest.row import Measure
from siredon.selftest.table import Result, Status, Table, Tried

if TYPE_CHECKING:
    from rich.table import Table as Grid

_PACKAGES = ("torch", "transformers", "peft", "accelerate")
#: Columns: at most, so that lines can be read; where there is no terminal; and at least.
_WIDEST, _NARROWEST = 100, 60
#: Cells that are named of a row that failed.
_MOST_NAMED = 4
_COLOURS: dict[Status, str] = {"passed": "green", "failed": "bold red", "could not run": "yellow"}


def show_table(table: Table, *, as_json: bool) -> None:
    """Writes the table to stdout; with colours only on a terminal."""
    if as_json:
        show(json.dumps(describe_table(table), indent=2, allow_nan=False))
        return
    colours = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    show(render_table(table, _num_columns(), colours=colours))


def describe_table(table: Table) -> dict[str, Any]:
    """Every cell and figure, as JSON values; a figure that is no finite number is None."""
    return {
        "siredon": __version__,
        "versions": {"python": platform.python_version(), **_versions()},
        "device": table.device,
        "quick": table.is_quick,
        "seconds": round(table.seconds, 1),
        "passed": table.count("passed"),
        "failed": table.count("failed"),
        "could_not_run": table.count("could not run"),
        "rows": [_describe_result(result) for result in table.results],
    }


def _describe_result(result: Result) -> dict[str, Any]:
    return {
        "number": result.row.number,
        "name": result.name,
        "proves": result.row.proves,
        "status": result.status,
        **_describe_measure(result.worst),
        "cells": [_describe_cell(tried) for tried in result.tried],
    }


def _describe_cell(tried: Tried) -> dict[str, Any]:
    finding = tried.finding
    return {
        **vars(tried.cell),
        "status": tried.status,
        "reason": finding.skipped_because or finding.error,
        "seconds": round(tried.seconds, 2),
        "measures": [_describe_measure(measure) | {"passed": measure.passed} for measure in finding.measures],
    }


def _describe_measure(measure: Measure | None) -> dict[str, Any]:
    if measure is None:
        return {"what": None, "figure": None, "tolerance": None}
    figure = measure.figure if math.isfinite(measure.figure) else None
    return {"what": measure.what, "figure": figure, "tolerance": measure.tolerance}


def render_table(table: Table, width: int, *, colours: bool = False) -> str:
    """The table as text, with what failed and what could not run below it.

    Args:
        table: What was found.
        width: Columns of the screen.
        colours: Whether it may hold colours.
    """
    from rich.console import Console
    from rich.text import Text

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=min(width, _WIDEST),
        highlight=False,
        markup=False,
        force_terminal=colours,
        color_system="standard" if colours else None,
    )
    console.print(Text(f"siredon {__version__}, {_show_versions()}"))
    console.print(Text(f"on {table.device}{', few cells only (--quick)' if table.is_quick else ''}\n"))
    console.print(_build_grid(table))
    for line in _list_notes(table):
        console.print(Text(line))
    counts: tuple[Status, ...] = ("passed", "failed", "could not run")
    summary = ", ".join(f"{table.count(status)} {status}" for status in counts)
    console.print(Text(f"\n{summary}; {table.seconds:.0f} s", style="" if table.passed else "bold red"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def _build_grid(table: Table) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, expand=True)
    grid.add_column("", justify="right", no_wrap=True)
    grid.add_column("row", no_wrap=True)
    grid.add_column("proves", ratio=1)
    for name in ("figure", "tolerance", "cells"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("result", no_wrap=True)
    for result in table.results:
        worst = result.worst
        grid.add_row(
            str(result.row.number),
            result.name,
            result.row.proves,
            "" if worst is None else _show_figure(worst.figure),
            "" if worst is None else _show_figure(worst.tolerance),
            _count_cells(result),
            Text(result.status, style=_COLOURS[result.status]),
        )
    return grid


def _count_cells(result: Result) -> str:
    ran = sum(tried.status != "could not run" for tried in result.tried)
    return str(ran) if ran == len(result.tried) else f"{ran}/{len(result.tried)}"


def _list_notes(table: Table) -> Iterator[str]:
    """What failed, with its cells, and why cells could not run."""
    for result in table.results:
        bad = [tried for tried in result.tried if tried.status == "failed"]
        for tried in bad[:_MOST_NAMED]:
            yield f"\nfailed: {result.name}, {tried.cell.describe()}: {_explain_failure(tried)}"
        if len(bad) > _MOST_NAMED:
            yield f"        and {len(bad) - _MOST_NAMED} more cells of {result.name}; `--json` has all"
    reasons: dict[str, list[str]] = {}
    for result in table.results:
        for reason in result.reasons:
            reasons.setdefault(reason, []).append(result.name)
    for reason, names in reasons.items():
        yield f"\ncould not run: {reason}\n  in {', '.join(names)}"


def _explain_failure(tried: Tried) -> str:
    if tried.finding.error:
        return tried.finding.error
    worst = tried.finding.worst
    if worst is None:
        return "it measured nothing"
    return f"{worst.what}: {_show_figure(worst.figure)} against {_show_figure(worst.tolerance)}"


def _show_figure(figure: float) -> str:
    if figure == 0:
        return "0"
    short = f"{figure:.1e}"
    return short.replace(".0e", "e")


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


def _show_versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in _versions().items())


def _num_columns() -> int:
    if not is_terminal(sys.stdout):
        return _WIDEST
    return max(_NARROWEST, os.get_terminal_size(sys.stdout.fileno()).columns)


@contextmanager
def show_progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on, where there is a terminal; elsewhere nothing."""
    if not is_terminal(sys.stderr):
        yield lambda line: None
        return
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False, markup=False)
    with console.status("loading libraries") as status:
        yield status.update
