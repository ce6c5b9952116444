"""`siredon reproduce RUN_DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.train.interrupt import interruptible


def reproduce(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The `output_dir` of a run, which holds its `run.json`.")
    ],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder for the new run; default RUN_DIR-reproduced.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is not the same here; train nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Train in spite of what is not the same.")] = False,
) -> None:
    """Make a run again from its record, refuse if something is not the same, and compare the two to the bit."""
    from siredon import pipeline
    from siredon.hardware import set_thread_policy

    folder = run.expanduser().absolute()
    output = (output_dir or folder.with_name(f"{folder.name}-reproduced")).expanduser().absolute()
    if output == folder:
        raise typer.BadParameter("--output-dir is the folder of the run itself")
    with interruptible():
        set_thread_policy()
        from siredon.train.reproduce import Repeat

        done = pipeline.reproduce(Repeat(folder, output, check, force))
    raise typer.Exit(0 if done else 1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(reproduce)
