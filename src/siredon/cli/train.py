"""`siredon train CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import ConfigPath
from siredon.cli.read import read_config


def train(config: ConfigPath) -> None:
    """Train CONFIG. Everything is written to its `output_dir`."""
    checked = read_config(config)
    from siredon import pipeline

    pipeline.train(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(train)
