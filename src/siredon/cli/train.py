"""`siredon train CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Words
from siredon.cli.read import read_config


def train(words: Words = None) -> None:
    """Train CONFIG. Everything is written to its `output_dir`."""
    checked = read_config(words)
    from siredon import pipeline

    pipeline.train(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(train)
