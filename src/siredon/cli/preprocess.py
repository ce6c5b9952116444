"""`siredon preprocess CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Words
from siredon.cli.read import read_config
from siredon.train.interrupt import interruptible


def preprocess(words: Words = None) -> None:
    """Prepare the data of CONFIG: render, tokenize, label, pack, and report."""
    with interruptible():
        checked = read_config(words)
        from siredon import pipeline

        pipeline.preprocess(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(preprocess)
