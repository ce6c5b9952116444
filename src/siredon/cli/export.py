"""`siredon export CONFIG --format gguf`."""

from __future__ import annotations

from pathlib import Path

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.export.wanted import Wanted


def export(
    words: Target = None,
    format_: str = typer.Option("gguf", "--format", help="gguf, ollama, or safetensors."),
    type_: str | None = typer.Option(
        None,
        "--type",
        help="Number format of the weights: f16 (default), bf16, q8_0, q4_k_m, ... for GGUF; bf16, f16, f32 for safetensors.",
    ),
    output: Path | None = typer.Option(
        None, help="The file or folder to write. Default: in the folder of the run.", show_default=False
    ),
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
