"""`siredon export CONFIG --format gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.export.wanted import Wanted


def export(
    words: Target = None,
    format_: str = typer.Option("gguf", "--format", help="gguf, ollama, safetensors, or onnx."),
    type_: str | None = typer.Option(
        None,
        "--type",
        help="Format of the weights: f16 (default), bf16, q8_0, q4_k_m ... in GGUF; bf16, f16, f32 in safetensors.",
    ),
    output: Annotated[
        Path | None, typer.Option(help="The file or folder to write. Default: in the folder of the run.")
    ] = None,
    max_shard_size: str = typer.Option("5GB", help="safetensors: the largest file."),
    system: str = typer.Option("", help="ollama: the system message.", show_default=False),
) -> None:
    """Write the model of CONFIG in a format that other programs read, and read it back."""
    checked = read_target(words)
    from siredon import release

    release.export(checked, Wanted(format_, type_, output, max_shard_size, system))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(export)
