"""`siredon config-schema`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer


def config_schema(
    field: Annotated[
        str | None, typer.Option(help="Only this key: `learning_rate`, `datasets.type`, `trl.beta`.")
    ] = None,
    output: Annotated[Literal["json", "yaml"], typer.Option("--format", help="JSON or YAML.")] = "json",
) -> None:
    """Print the JSON Schema (draft 2020-12) of a CONFIG, for editors and validators."""
    import yaml

    from siredon.config.json_schema import field_schema, json_schema
    from siredon.config.schema import key_homes
    from siredon.registry import suggest

    steps = [step for step in (field or "").lstrip("-").replace("-", "_").split(".") if not step.isdecimal()]
    schema = field_schema(steps) if field is not None else json_schema()
    if schema is None:
        hint = suggest(str(field), key_homes())
        raise typer.BadParameter(f"`{field}` is no key. {hint}".strip(), param_hint="--field")
    if output == "json":
        typer.echo(json.dumps(schema, indent=2))
    else:
        typer.echo(yaml.safe_dump(schema, sort_keys=False, allow_unicode=True), nl=False)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("config-schema")(config_schema)
