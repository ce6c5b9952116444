"""`siredon lm-eval CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.evaluate import Base, Compare, choose_models
from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.evaluate.wanted import Benchmark


def lm_eval(  # noqa: PLR0913 - one for each option
    words: Target = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task of lm-evaluation-harness, and its number of examples: `arc_easy:5`. May be given several "
            "times; default `lm_eval_tasks`."
        ),
    ] = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="A folder with tasks of your own (*.yaml).")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=0, help="Questions of each task, or a part of them below 1.", show_default=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put questions into the chat template.")] = False,
    base: Base = False,
    compare: Compare = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; default a new one in `lm_eval_results` in `output_dir`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ask the model that CONFIG trained the tasks of lm-evaluation-harness."""
    which = choose_models(base=base, compare=compare)
    checked = read_target(words)
    from siredon import release

    asked = Benchmark(which, tuple(task or ()), tuple(include or ()), limit, chat, output)
    release.lm_eval(checked, asked)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("lm-eval", context_settings=OPEN)(lm_eval)
