"""`siredon inspect CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Words
from siredon.cli.read import read_config

#: Rows that are shown, unless `--rows` says otherwise.
ON_TERMINAL, ON_PAGE = 3, 200


def inspect(  # noqa: PLR0913 - one for each option
    words: Words = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            "-n",
            min=1,
            help=f"Rows to look at; default {ON_TERMINAL}, and {ON_PAGE} for a page.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        int | None, typer.Option(min=1, help="Only of this data set, counted from 1.", show_default=False)
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(min=1, help="Only this row of a data set, counted from 1.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Draw the rows at random by this seed; default the first ones.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Write one page to this file, to search and filter.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long rows on the terminal.")] = False,
) -> None:
    """Show rows of CONFIG as training sees them: which tokens are learned, what was dropped, how packs are filled."""
    checked = read_config(words)
    from siredon import pipeline
    from siredon.data.inspect import Choice
    from siredon.data.inspect_output import Output

    wanted = Choice(rows or (ON_PAGE if html else ON_TERMINAL), source, row, seed)
    if not pipeline.inspect(checked, wanted, Output(as_json, html, full)):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(inspect)
