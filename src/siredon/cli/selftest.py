"""`siredon selftest [ROW ...]`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def _complete_row(incomplete: str) -> list[str]:
    from siredon.registry import Shelf

    names = Shelf("siredon.selftest.rows", "ROW", "selftest").names()
    return [name for name in names if name.startswith(incomplete)]


def selftest(
    rows: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROW",
            help="Rows to run, by name; default all.",
            show_default=False,
            autocompletion=_complete_row,
        ),
    ] = None,
    device: Annotated[Literal["cpu", "gpu"], typer.Option(help="Where the trials are run.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Few cells of each row: under a minute.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON to stdout, with every cell, and nothing else.")
    ] = False,
) -> None:
    """Prove on this machine that training is exact: a table of claims, figures and tolerances."""
    from siredon import pipeline
    from siredon.hardware import set_thread_policy
    from siredon.selftest.wanted import Wanted

    set_thread_policy()

    if not pipeline.selftest(Wanted(tuple(rows or ()), device, quick, as_json)):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(selftest)
