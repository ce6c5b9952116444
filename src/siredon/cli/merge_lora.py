"""`siredon merge-lora CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.export.merge_wanted import MAX_KL, Merge


def merge_lora(
    words: Target = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR[:WEIGHT]",
            help="An adapter in place of the run's; may be given several times: LoRA adds up, each times its weight.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Hold the merged model against base and adapter, on rows of the data.")
    ] = True,
    max_kl: Annotated[
        float, typer.Option(min=0, help="The most they may differ: nats a token, on average.")
    ] = MAX_KL,
) -> None:
    """Merge the adapter of CONFIG into its base: a normal model folder in `output_dir/merged`."""
    checked = read_target(words)
    from siredon import release

    release.merge_lora(checked, Merge(tuple(adapter or ()), verify, max_kl))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-lora", context_settings=OPEN)(merge_lora)
