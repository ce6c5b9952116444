"""`siredon check CONFIG`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from siredon.cli.options import ConfigPath


def check(
    config: ConfigPath,
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="Text for people, or JSON for programs.")
    ] = "text",
) -> None:
    """Find every problem in CONFIG, located. Exit status 0: none, 1: errors."""
    from siredon.config.diagnostics import num_errors, show_json, show_report
    from siredon.config.load import check_config

    problems = check_config(config).diagnostics
    if output == "json":
        typer.echo(show_json(problems))
    elif problems:
        typer.echo(show_report(config, problems))
    else:
        typer.echo(f"{config}: no problems")
    raise typer.Exit(1 if num_errors(problems) else 0)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(check)
