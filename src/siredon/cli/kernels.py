"""`siredon kernels CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from siredon.cli.options import OPEN, Words
from siredon.cli.read import read_config


def kernels(
    words: Words = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.")] = False,
) -> None:
    """Show which fused kernels a training of CONFIG would take on this machine, and why."""
    checked = read_config(words)
    from siredon import pipeline

    pipeline.kernels(checked, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(kernels)
