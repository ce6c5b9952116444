"""`siredon train CONFIG`."""

from __future__ import annotations

from typing import Annotated

import typer

from siredon.cli.options import OPEN, Words, read_words
from siredon.cli.read import read_config
from siredon.errors import TrainingError
from siredon.train.interrupt import interruptible


def train(
    words: Words = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Save everything and end after TIME, to go on later: `11h30m`, `1:30:00`."
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Train once for each set of values in FILE, and compare the runs."),
    ] = None,
    sweep_runs: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="How many sets to try; default every combination."),
    ] = None,
    sweep_search: Annotated[
        str | None,
        typer.Option(
            metavar="[grid|random|optuna]",
            help="How sets are chosen; default grid, or random with --sweep-runs.",
        ),
    ] = None,
    shard: Annotated[bool, typer.Option("--shard", hidden=True)] = False,
) -> None:
    """Train CONFIG. Everything is written to its `output_dir`."""
    if shard:
        raise TrainingError(
            "--shard: weights are trained and written whole here, so there is nothing to cut",
            "Leave it out. What other programs wrote in pieces is put together by "
            "`siredon merge-sharded-fsdp-weights`.",
        )
    if sweep is None and (sweep_runs or sweep_search):
        raise typer.BadParameter("--sweep-runs and --sweep-search go with --sweep FILE")
    search = sweep_search or ("random" if sweep_runs else "grid")
    if sweep is not None and (search == "grid") == bool(sweep_runs):
        raise typer.BadParameter("--sweep-runs goes with a random or Optuna search, and they need it")
    if max_time is not None:
        words = [*(words or []), f"max_time={max_time}"]
    with interruptible():
        if sweep is None:
            checked = read_config(words)
            from siredon import pipeline

            pipeline.train(checked)
            return
        (path,), layer = read_words(words)
        from siredon import pipeline
        from siredon.sweep.wanted import Sweep

        done = pipeline.sweep(path, layer, Sweep(sweep, search, sweep_runs or 0))
    raise typer.Exit(0 if done else 1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(train)
