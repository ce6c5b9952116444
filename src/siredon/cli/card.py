"""`siredon card CONFIG`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target


def card(
    words: Target = None,
    force: bool = typer.Option(False, "--force", help="Write over a card that was changed by hand."),
) -> None:
    """Write the model card (`README.md`) of CONFIG anew, from the records of the run."""
    checked = read_target(words)
    from siredon import release

    release.card(checked, force=force)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(card)
