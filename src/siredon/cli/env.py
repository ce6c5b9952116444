"""`siredon env`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def env(
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="Text for people, or JSON for programs.")
    ] = "text",
) -> None:
    """Show versions, devices and optional parts, to paste into a bug report. No secrets."""
    from siredon.environment import describe_environment, show_environment, show_environment_json
    from siredon.redaction import redact

    environment = describe_environment()
    show = show_environment_json if output == "json" else show_environment
    typer.echo(redact(show(environment)))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(env)
