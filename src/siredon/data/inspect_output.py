"""An inspection -> the terminal, one page of HTML, or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from siredon.data.inspect import Inspection
from siredon.data.inspect_html import build_page
from siredon.data.inspect_text import print_inspection
from siredon.errors import DataError
from siredon.log import show


@dataclass(frozen=True)
class Output:
    """How an inspection is shown.

    Args:
        as_json: As JSON.
        page: A file for a page of HTML; None for none.
        in_full: Long rows are not cut on the terminal.
    """

    as_json: bool = False
    page: Path | None = None
    in_full: bool = False


def show_inspection(inspection: Inspection, output: Output) -> None:
    """Shows it.

    Raises:
        DataError: The page cannot be written.
    """
    if output.page is not None:
        _write_page(inspection, output.page)
    if output.as_json:
        # ASCII: no terminal and no program can take offence at what stands in the data
        show(json.dumps(asdict(inspection), indent=1), verbatim=True)
    elif output.page is not None:
        show(f"page: {output.page} ({len(inspection.rows):,} rows)")
    else:
        print_inspection(inspection, in_full=output.in_full)


def _write_page(inspection: Inspection, path: Path) -> None:
    try:
        path.write_text(build_page(inspection), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path}: the page cannot be written: {error.strerror or error}",
            "Name a file in a folder that is there.",
        ) from error
