"""`siredon inference CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.log import note
from siredon.train.interrupt import QUIT


def inference(
    words: Target = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt; may be given several times. Without one: a prompt loop."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Ask the base model instead of the tuned one.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show base and tuned answers side by side.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
) -> None:
    """Ask the model that CONFIG trained."""
    if compare and (base or not prompt):
        raise typer.BadParameter("--compare needs at least one --prompt, and excludes --base")
    checked = read_target(words)
    from siredon import release
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    sampling = Sampling(max_new_tokens, temperature)
    try:
        release.inference(checked, Prompts(tuple(prompt or ()), base, compare, sampling))
    except KeyboardInterrupt:
        note("")  # Behind the ^C
        raise typer.Exit(QUIT) from None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(inference)
