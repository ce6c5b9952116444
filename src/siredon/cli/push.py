"""`siredon push CONFIG --repo owner/name`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.export.push_wanted import Push


def push(
    words: Target = None,
    repo: str | None = typer.Option(
        None, help="The repository, `owner/name` or a name in your account. Default: `hub_model_id`."
    ),
    revision: str | None = typer.Option(
        None, help="The branch, made if it is not there. Default: `hub_revision`, or main."
    ),
    public: bool = typer.Option(
        False, "--public", help="Make a public repository, or use one that is. Default: private."
    ),
    what: str | None = typer.Option(
        None, help="adapter, merged, quantized, or a file or folder. Default: what CONFIG names."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be sent, and send nothing."),
) -> None:
    """Send the adapter or model of CONFIG to the Hugging Face hub, with its card."""
    checked = read_target(words)
    from siredon import release

    release.push(checked, Push(repo, revision, public, what, dry_run))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(push)
