"""`siredon config show CONFIG` and `siredon config diff A B`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from siredon.cli.options import OPEN, Words, read_words

if TYPE_CHECKING:
    from siredon.config.layers import Layer
    from siredon.config.load import Checked

Output = Annotated[
    Literal["text", "json"], typer.Option("--format", help="Text for people, or JSON for programs.")
]


def show(
    words: Words = None,
    output: Output = "text",
    only_set: Annotated[
        bool, typer.Option("--set", help="Leave out what is neither in the file nor on the command line.")
    ] = False,
) -> None:
    """Show what CONFIG comes to: every key that works, its value, and where that came from."""
    from siredon.config.show import resolve_keys, show_resolved, show_resolved_json

    (path,), layer = read_words(words)
    rows = resolve_keys(_check(path, layer))
    shown = [row for row in rows if row.is_set or not only_set]
    typer.echo(show_resolved_json(shown) if output == "json" else show_resolved(shown))


def diff(words: Words = None, output: Output = "text") -> None:
    """Show the keys for which CONFIG and a second CONFIG come to different values."""
    from siredon.config.show import compare_resolved, resolve_keys, show_differences, show_differences_json

    (left, right), layer = read_words(words, num_files=2)
    differences = compare_resolved(resolve_keys(_check(left, layer)), resolve_keys(_check(right, layer)))
    if output == "json":
        typer.echo(show_differences_json(differences))
    else:
        typer.echo(show_differences(differences) or f"{left} and {right} come to the same")


def _check(path: str, layer: Layer) -> Checked:
    from siredon.config.diagnostics import num_errors, show_report, show_text
    from siredon.config.load import check_config
    from siredon.errors import ConfigError
    from siredon.log import note

    checked = check_config(path, [layer])
    if checked.config is None:
        raise ConfigError(show_report(path, checked.diagnostics), num_errors(checked.diagnostics))
    if checked.diagnostics:
        note(show_text(checked.diagnostics))
    return checked


def register(app: typer.Typer) -> None:
    """Adds the command."""
    group = typer.Typer(
        help="What a configuration comes to, and where each value came from.", no_args_is_help=True
    )
    group.command(context_settings=OPEN)(show)
    group.command(context_settings=OPEN)(diff)
    app.add_typer(group, name="config")
