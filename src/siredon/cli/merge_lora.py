"""`siredon merge-lora CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target


def merge_lora(words: Target = None) -> None:
    """Merge the adapter of CONFIG into its base: a normal model folder in `output_dir/merged`."""
    checked = read_target(words)
    from siredon import release

    release.merge_lora(checked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-lora", context_settings=OPEN)(merge_lora)
