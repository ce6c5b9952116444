"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The YAML file.", show_default=False)]
