"""`siredon cache list | clear`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from siredon.data.cache import Entry

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The `dataset_prepared_path` of a configuration.")
]
DEFAULT = Path("last_run_prepared")


def list_prepared(folder: Folder = DEFAULT) -> None:
    """List the data sets that are prepared in FOLDER, the newest first."""
    from siredon.data.cache import find_clearable, list_cache

    root = _open(folder)
    entries = list_cache(root)
    halves = [entry for entry in find_clearable(root) if not entry.is_whole]
    if entries:
        typer.echo("\n".join(_show_table(entries)))
        typer.echo(f"{_count_sets(len(entries))}, {_show_bytes(sum(e.num_bytes for e in entries))}")
    else:
        typer.echo(f"{folder}: nothing is prepared there")
    if halves:
        size = _show_bytes(sum(half.num_bytes for half in halves))
        typer.echo(
            f"{len(halves):,} left half-written by killed runs, {size}: `siredon cache clear` removes them"
        )


def clear(
    folder: Folder = DEFAULT,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Only what was prepared so many days ago or longer.")
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete prepared data in FOLDER, and nothing else that is there. What a run needs is prepared again."""
    from siredon.data.cache import clear_cache, find_clearable

    root = _open(folder)
    found = find_clearable(root, older_than)
    if not found:
        typer.echo(f"{folder}: nothing to delete")
        return
    num_halves = sum(not entry.is_whole for entry in found)
    what = _count_sets(len(found) - num_halves)
    if num_halves:
        what += f" and {num_halves:,} left half-written by killed runs"
    typer.echo(f"{folder}: {what}, {_show_bytes(sum(entry.num_bytes for entry in found))}")
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask on: add `--yes` to delete them")
        typer.confirm("Delete them?", abort=True)
    freed = clear_cache(root, older_than)
    typer.echo(f"freed {_show_bytes(freed)}")


def _open(folder: Path) -> Path:
    from siredon.errors import DataError

    root = folder.expanduser()
    if not root.is_dir():
        raise DataError(
            f"{folder}: there is no such folder", "Name the `dataset_prepared_path` of your configuration."
        )
    return root


def _show_table(entries: tuple[Entry, ...]) -> list[str]:
    rows = [("key", "source", "samples", "tokens", "size", "age")]
    rows += [
        (
            entry.folder.name,
            entry.counts.source,
            f"{entry.counts.num_samples:,}",
            f"{entry.counts.num_tokens:,}",
            _show_bytes(entry.num_bytes),
            _show_age(time.time() - entry.prepared_at),
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}"
            if column < 2
            else f"{cell:>{width}}"  # Words to the left, numbers to the right
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _count_sets(number: int) -> str:
    return f"{number:,} prepared data set{'' if number == 1 else 's'}"


def _show_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _show_age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Prepared data on disk.", no_args_is_help=True)
    group.command("list")(list_prepared)
    group.command()(clear)
    app.add_typer(group, name="cache")
