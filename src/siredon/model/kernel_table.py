"""Which fused kernels a model takes, as a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from siredon.hardware import Hardware
from siredon.log import show
from siredon.model.install import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Columns that the table is wide, where there is no terminal.
_WIDTH = 110


def show_kernels(rows: Sequence[Row], hardware: Hardware, *, as_json: bool) -> None:
    """Writes op, choice, reason and expected gain to stdout."""
    if as_json:
        show(json.dumps({"device": hardware.describe(), "kernels": [asdict(row) for row in rows]}, indent=2))
        return
    show(render_kernels(rows))
    show(f"on {hardware.describe()}")


def render_kernels(rows: Sequence[Row]) -> str:
    """The table as text."""
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("kernel", "what it computes", "used", "expected gain"):
        table.add_column(name, no_wrap=name == "kernel")
    for row in rows:
        used = row.choice + (f"; {row.reason}" if row.choice and row.reason else "")
        table.add_row(row.name, row.title, used or f"no: {row.reason}", row.gain if row.choice else "")
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
