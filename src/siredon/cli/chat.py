"""`siredon chat CONFIG|FOLDER`."""

from __future__ import annotations

from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.cli.sampling import MaxNewTokens, MinP, RepetitionPenalty, Seed, Stop, Temperature, TopK, TopP


def chat(  # noqa: PLR0913 - one for each option
    words: Target = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Ask base and tuned model, and show the answers side by side.")
    ] = False,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model.")] = False,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    gradio: Annotated[bool, typer.Option("--gradio", help="As a page in the browser.")] = False,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    sampling_seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Talk to a trained model in the terminal: several turns, commands with a `/`, Ctrl-C stops an answer."""
    if compare and base:
        raise typer.BadParameter("--compare asks both models, and excludes --base")
    config = read_target(words)
    from siredon import release
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    stops = tuple(stop or ())
    sampling = Sampling(
        max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, stops, sampling_seed
    )
    release.chat(config, Prompts((), base, compare, sampling, gradio=gradio), system)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(chat)
