"""`python -m siredon.cli.pages FOLDER` writes the reference.  It is here, as only this folder knows the commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from siredon.cli.app import app
from siredon.config.pages import configuration_page, rules_page
from siredon.config.support import support_page


def build_pages() -> dict[str, str]:
    """Name of a page's file -> its text."""
    return {
        "configuration.md": configuration_page(),
        "rules.md": rules_page(),
        "support.md": support_page(dict(_commands(get_command(app)))),
    }


def write_pages(folder: Path) -> list[Path]:
    """Writes every page.

    Returns:
        The files that had another text, or none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in build_pages().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Each command, by the words that call it, and what it does."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            about = command.help or (command.callback.__doc__ or "")
            yield f"{before}{name}", " ".join(about.partition("\n\n")[0].split())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m siredon.cli.pages FOLDER")
    for written in write_pages(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
