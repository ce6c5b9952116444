"""Options by which the tokens of an answer are chosen, of every command that answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from siredon.serve.settings import SETTINGS, STOP_ABOUT


def _option(name: str) -> Any:
    setting = SETTINGS[name]
    return typer.Option(min=setting.low, max=setting.high, help=setting.about)


MaxNewTokens = Annotated[int, _option("max_new_tokens")]
Temperature = Annotated[float, _option("temperature")]
TopP = Annotated[float, _option("top_p")]
TopK = Annotated[int, _option("top_k")]
MinP = Annotated[float, _option("min_p")]
RepetitionPenalty = Annotated[float, _option("repetition_penalty")]
#: `--seed` is the key of the YAML file, as every setting is.
Seed = Annotated[int | None, _option("seed")]
Stop = Annotated[list[str] | None, typer.Option(help=f"{STOP_ABOUT} May be given several times.")]
