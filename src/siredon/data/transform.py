"""`input_transform`: a function of the user's, from a row to a row, or to None for none."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from siredon.config.functions import find_function
from siredon.data.rows import Rows, spool_rows
from siredon.data.types import Row
from siredon.errors import DataError

#: The function of a module that is named without one.
_DEFAULTS = ("transform",)


def transform_rows(rows: Rows, path: str, limit: int | None) -> Rows:
    """The rows as the function makes them, each made once.

    Args:
        rows: The rows; the function gets a copy of each that it may change.
        path: Dotted path of the function.
        limit: At most so many that are kept.

    Raises:
        DataError: There is no such function, it raised, or it returned something else.
    """
    function = load_function(path)

    def change(row: Row, index: int) -> Row | None:
        try:
            changed = function(dict(row))
        except Exception as error:  # Whatever the user's function raises
            raise DataError(
                f"{rows.place(index)}: `{path}` raised {type(error).__name__}: {error}",
                "Correct the function.",
            ) from error
        if changed is not None and not isinstance(changed, Mapping):
            raise DataError(
                f"{rows.place(index)}: `{path}` returned {type(changed).__name__}, not a row",
                "Return a mapping, or None to leave the row out.",
            )
        return None if changed is None else dict(changed)

    return spool_rows(rows, change, limit)


def load_function(path: str) -> Callable[[dict[str, Any]], Any]:
    """The function at a dotted path; `transform`, where it is that of a module.

    Raises:
        DataError: There is none, or importing its module raised.
    """
    found = find_function(path, _DEFAULTS)
    if found.problem:
        raise DataError(f"`input_transform: {path}`: {found.problem}", found.fix)
    try:
        with _find_in_current_folder():
            function = vars(importlib.import_module(found.module)).get(found.function)
    except Exception as error:  # Whatever the user's module raises
        raise DataError(
            f"`input_transform: {path}`: {found.module} cannot be imported: {type(error).__name__}: {error}",
            "Mend the module, or install what it needs.",
        ) from error
    if not callable(function):
        raise DataError(f"`input_transform: {path}`: `{found.function}` is no function", "Name a function.")
    return cast("Callable[[dict[str, Any]], Any]", function)


def fingerprint_function(path: str) -> str:
    """A hash of the file that the function is in; empty if there is none."""
    file = find_function(path, _DEFAULTS).file
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@contextmanager
def _find_in_current_folder() -> Iterator[None]:
    """Modules of the folder in which the program was started are found too, after all others."""
    folder = str(Path.cwd())
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new:
            sys.path.remove(folder)
