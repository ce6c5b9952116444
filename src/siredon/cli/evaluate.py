"""`siredon evaluate CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.evaluate.wanted import Evaluation, Split, Which

Base = Annotated[bool, typer.Option("--base", help="Judge the base model instead of the tuned one.")]
Compare = Annotated[bool, typer.Option("--compare", help="Judge both, in one table.")]


def choose_models(*, base: bool, compare: bool) -> Which:
    """Which models two flags name.

    Raises:
        typer.BadParameter: Both were given.
    """
    if base and compare:
        raise typer.BadParameter("--compare judges the base model too: leave --base out")
    return "both" if compare else "base" if base else "tuned"


def evaluate(  # noqa: PLR0913 - one for each option
    words: Target = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="Which rows; default the validation rows, or the training rows where there are none.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        bool,
        typer.Option(
            "--base",
            help="Judge the base model instead of the tuned one; on judged rows, the model at its start.",
        ),
    ] = False,
    compare: Compare = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Let the model answer, and score it: exact_match, rouge, chrf, sacrebleu, ter, or a function of "
            "yours (`module.function`). May be given several times."
        ),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most rows that it answers; default all. With --compare on pairs, how many are written down one by "
            "one; default 20.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; default `evaluation` in `output_dir`.", show_default=False),
    ] = None,
) -> None:
    """Measure the model that CONFIG trained: loss, perplexity and scores, or rewards of judged rows."""
    which = choose_models(base=base, compare=compare)
    checked = read_target(words)
    if answers is not None and not metric and not (compare and checked.preference.compares):
        raise typer.BadParameter("--answers goes with --metric, and on pairs with --compare")
    from siredon import release

    release.evaluate(checked, Evaluation(which, split, tuple(metric or ()), answers, output))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(evaluate)
