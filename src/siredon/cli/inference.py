"""`siredon inference CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.cli.sampling import MaxNewTokens, MinP, RepetitionPenalty, Seed, Stop, Temperature, TopK, TopP
from siredon.log import note
from siredon.train.interrupt import QUIT


def inference(  # noqa: PLR0913 - one for each option
    words: Target = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt; may be given several times. Without one: a prompt loop."),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="An answer to the prompt, for a model that judges; may be given several times."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Ask the base model instead of the tuned one.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show base and tuned answers side by side.")
    ] = False,
    questions: Annotated[
        Path | None,
        typer.Option("--input", help="JSON lines, each with `prompt` or `messages`; needs --output."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the answers to --input go; what is there already is gone on with."),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Lines of --input answered at a time.")] = 8,
    gradio: Annotated[bool, typer.Option("--gradio", help="As a page in the browser.")] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    sampling_seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Ask the model that CONFIG trained: each prompt by itself, or a file of them."""
    if compare and (base or not prompt):
        raise typer.BadParameter("--compare needs at least one --prompt, and excludes --base")
    if (questions is None) != (output is None) or (questions and prompt):
        raise typer.BadParameter("--input needs --output, --output needs --input, and both exclude --prompt")
    if gradio and (prompt or questions):
        raise typer.BadParameter("--gradio excludes --prompt and --input")
    files = (questions, output) if questions and output else None
    checked = read_target(words)
    from siredon import release
    from siredon.serve.prompts import Prompts
    from siredon.serve.questions import read_batch
    from siredon.serve.sampling import Sampling

    if checked.preference.judges:
        asked = Prompts(
            tuple(prompt or ()), base, compare, Sampling(), None, gradio, tuple(answer or ()), files
        )
        release.score(checked, asked)
        return
    if answer:
        raise typer.BadParameter("--answer is for a model that judges: `reward_model: true`")
    stops = tuple(stop or ())
    sampling = Sampling(
        max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, stops, sampling_seed
    )
    batch = read_batch(*files, at_once) if files else None
    if gradio:
        release.chat(checked, Prompts((), base, compare, sampling, gradio=True), "")
        return
    try:
        release.inference(checked, Prompts(tuple(prompt or ()), base, compare, sampling, batch))
    except KeyboardInterrupt:
        note("\nStopped: the same command goes on." if batch else "")  # Behind the ^C
        raise typer.Exit(QUIT) from None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(inference)
