"""`siredon merge-lora CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import ConfigPath
from siredon.cli.read import read_config


def merge_lora(config: ConfigPath) -> None:
    """Merge the adapter of CONFIG into its base: a normal model folder in `output_dir/merged`."""
    checked = read_config(config)
    from siredon import pipeline

    pipeline.merge_lora(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-lora")(merge_lora)
