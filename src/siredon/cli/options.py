"""Arguments that several commands share: the file, and settings that are laid over it."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siredon.redaction import redact

if TYPE_CHECKING:
    from siredon.config.layers import Layer

#: What a command needs whose words are not all known beforehand.
OPEN: dict[str, Any] = {"ignore_unknown_options": True}


def complete_word(incomplete: str) -> list[str]:
    """Files and settings that a half-written word may become, for the shell."""
    from siredon.config.schema import key_homes

    found = glob.glob(f"{glob.escape(incomplete)}*")
    files = [f"{name}/" if os.path.isdir(name) else name for name in found]
    files = [name for name in files if name.endswith((".yml", ".yaml", "/"))]
    return files + [f"{name}=" for name in key_homes() if incomplete and name.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE|--KEY VALUE",
        help="The YAML file, and settings laid over it: `lora_r=8`, `--learning-rate 1e-4`, `datasets.0.path=x`.",
        show_default=False,
        autocompletion=complete_word,
    ),
]

Target = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|FOLDER|KEY=VALUE|--KEY VALUE",
        help="The YAML file, or the folder of a run, an adapter or a model; and settings laid over it.",
        show_default=False,
        autocompletion=complete_word,
    ),
]


def read_words(words: list[str] | None, num_files: int = 1) -> tuple[list[str], Layer]:
    """The files that a command line names, and its settings.

    Raises:
        typer.BadParameter: It names another number of files.
    """
    from siredon.config.overrides import split_words

    files, layer = split_words(words or [])
    if len(files) < num_files:
        raise typer.BadParameter("missing CONFIG: the YAML file")
    if len(files) > num_files:
        raise typer.BadParameter(
            f"unexpected `{redact(files[num_files])}`: a setting is `key=value` or `--key value`"
        )
    return files, layer
