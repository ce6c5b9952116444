"""`siredon preprocess CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import ConfigPath
from siredon.cli.read import read_config


def preprocess(config: ConfigPath) -> None:
    """Prepare the data of CONFIG: render, tokenize, label, pack, and report."""
    checked = read_config(config)
    from siredon import pipeline

    pipeline.preprocess(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(preprocess)
