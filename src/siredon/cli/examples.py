"""`siredon examples list | show NAME | copy NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="As `list` shows it, such as `smollm2/identity-lora-cpu`.")]


def list_examples() -> None:
    """List the configurations that come with Siredon."""
    from siredon.examples import find_examples

    examples = find_examples()
    width = max(len(example.name) for example in examples)
    for example in examples:
        typer.echo(f"{example.name:<{width}}  {example.about}")


def show(name: Name) -> None:
    """Print one."""
    from siredon.examples import find_example

    typer.echo(find_example(name).path.read_text(encoding="utf-8"), nl=False)


def copy(
    name: Name,
    to: Annotated[Path, typer.Option(help="Folder below which `examples/` is made.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Copy one, and the files that it needs, to `examples/`, from where it runs as it is."""
    from siredon.examples import copy_example, find_example

    for path in copy_example(find_example(name), to, force=force):
        typer.echo(path)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    group = typer.Typer(help="Configurations that come with Siredon, and run.", no_args_is_help=True)
    group.command("list")(list_examples)
    group.command()(show)
    group.command()(copy)
    app.add_typer(group, name="examples")
