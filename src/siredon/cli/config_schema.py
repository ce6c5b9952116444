"""`siredon config-schema`."""

from __future__ import annotations

import json

import typer


def config_schema() -> None:
    """Print the JSON Schema of a CONFIG, for editors and validators."""
    from siredon.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("config-schema")(config_schema)
