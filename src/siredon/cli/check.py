"""`siredon check CONFIG`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from siredon.cli.options import OPEN, Words, read_words
from siredon.cli.paint import paint_report
from siredon.redaction import redact


def check(
    words: Words = None,
    output: Annotated[
        Literal["text", "json", "github"],
        typer.Option(
            "--format", help="Text for people, JSON for programs, or annotations of GitHub Actions."
        ),
    ] = "text",
    fix: Annotated[
        bool, typer.Option("--fix", help="Write clear corrections into CONFIG, and show them, first.")
    ] = False,
) -> None:
    """Find every problem in CONFIG, located. Exit status 0: none, 1: errors, 2: wrong command line."""
    from siredon.config.diagnostics import num_errors, show_github, show_json, show_report
    from siredon.config.load import check_config

    (path,), layer = read_words(words)
    if fix:
        _fix(path, is_text=output == "text")
    problems = check_config(path, [layer]).diagnostics
    if output == "json":
        typer.echo(show_json(problems))
    elif output == "github":
        typer.echo(show_github(problems), nl=bool(problems))
    elif problems:
        typer.echo(paint_report(show_report(path, problems)))
    else:
        typer.echo(f"{path}: no problems")
    raise typer.Exit(1 if num_errors(problems) else 0)


def _fix(path: str, *, is_text: bool) -> None:
    """Where stdout is for programs, people read on stderr what was changed."""
    from siredon.config.fix import fix_file

    changes = fix_file(path)
    typer.echo(
        redact(changes) or f"{path}: nothing that can be corrected by itself", nl=not changes, err=not is_text
    )
    if changes and is_text:
        typer.echo("")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(check)
