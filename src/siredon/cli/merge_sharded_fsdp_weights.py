"""`siredon merge-sharded-fsdp-weights CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_sharded
from siredon.export.consolidate_wanted import Consolidation


def merge_sharded_fsdp_weights(
    words: Target = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The folder with the files of the ranks, where it is not in `output_dir`."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write. Default: `merged`, of an adapter `adapter`, in `output_dir`."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="[bf16|f16|f32]", help="Format of the weights. Default: that of the run."),
    ] = None,
    max_shard_size: str = typer.Option("5GB", help="The largest file."),
) -> None:
    """Put the weights together that the ranks of a run wrote in pieces: a normal model folder, read back."""
    checked = read_sharded(words)
    from siredon import release

    release.merge_sharded_fsdp_weights(checked, Consolidation(checkpoint, output, dtype, max_shard_size))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge-sharded-fsdp-weights", context_settings=OPEN)(merge_sharded_fsdp_weights)
