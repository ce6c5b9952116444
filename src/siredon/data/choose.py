"""The `type` of a data set -> its format: a name on the shelf, a function of the user's, or a mapping."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from siredon.config.format_choice import FUNCTIONS
from siredon.config.functions import find_function
from siredon.config.sections.data import DatasetEntry
from siredon.config.shelves import FORMATS, split_type
from siredon.data.custom import build_custom
from siredon.data.types import Format
from siredon.errors import DataError
from siredon.registry import Shelf


def choose_format(entry: DatasetEntry, shelf: Shelf = FORMATS) -> Format:
    """The format that `type:` names or describes.

    A part of the shelf is a `Format`, or a function that makes one for the entry.

    Args:
        entry: The data set.
        shelf: Where formats are: `config.preference.formats`.

    Raises:
        DataError: There is none; the check of the configuration says so before.
    """
    if not isinstance(entry.type, str):
        return cast("Format", shelf.load("user_defined")(entry))
    name, mark, variant = split_type(entry.type)
    if shelf is FORMATS and name not in shelf.names() and mark == ".":
        return build_custom(entry)
    part = shelf.load(name)
    found = part if isinstance(part, Format) else cast("Format", part(entry))
    if mark and variant not in found.variants:
        known = ", ".join(f"`{name}{mark}{word}`" for word in found.variants) or f"`{name}`"
        raise DataError(f"{entry.path}: `type: {entry.type}` is no format", f"There are: {known}.")
    return found.variants[variant] if mark else found


def fingerprint_format(entry: DatasetEntry, shelf: Shelf = FORMATS) -> str:
    """What decides how rows are read besides the entry: the source of the user's module; else empty."""
    if not isinstance(entry.type, str) or shelf is not FORMATS:
        return ""
    name, mark, _ = split_type(entry.type)
    if name in FORMATS.names() or mark != ".":
        return ""
    file = find_function(entry.type, FUNCTIONS).file
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
