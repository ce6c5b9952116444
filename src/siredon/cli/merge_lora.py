"""`siredon merge-lora CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Words
from siredon.cli.read import read_config


def merge_lora(words: Words = None) -> None:
    """Merge the adapter of CONFIG into its base: a normal model folder in `output_dir/merged`."""
    checked = read_config(words)
    from siredon import release

    release.merge_lora(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-lora", context_settings=OPEN)(merge_lora)
