"""`siredon explain SD0103` and `siredon explain KEY`."""

from __future__ import annotations

from typing import Annotated

import typer


def complete_topic(incomplete: str) -> list[str]:
    """Codes and keys that a half-written word may become, for the shell."""
    from siredon.config.codes import all_pages
    from siredon.config.entries import all_names

    words = [*(page.code for page in all_pages()), *all_names()]
    return [word for word in words if word.startswith(incomplete)]


def explain(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="CODE|KEY",
            help="A code such as `SD0103`, or a key such as `lora_r` or `trl.beta`.",
            autocompletion=complete_topic,
        ),
    ],
) -> None:
    """Show what a problem's code means, with an example, or what a key does."""
    from siredon.cli.paint import paint_report
    from siredon.config.explain import explain as explain_word
    from siredon.config.explain import suggest_word

    text = explain_word(topic)
    if text is None:
        hint = (
            suggest_word(topic)
            or "docs/reference/rules.md lists all codes, docs/reference/configuration.md all keys."
        )
        raise typer.BadParameter(f"`{topic}` is no code and no key. {hint}")
    typer.echo(paint_report(text))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(explain)
