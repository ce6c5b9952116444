"""Shelves: folders of interchangeable parts, one file each, the file name being the YAML word.

A shelf lists its names without importing any part, and imports only the part that is asked for.
Third-party parts come through the entry-point group `siredon.<shelf>`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.resources import files
from typing import Any

from siredon.errors import UnknownPartError


@dataclass(frozen=True)
class Shelf:
    """One folder of parts.

    Args:
        package: The folder as a dotted name, such as `siredon.data.formats`.
        attribute: The name under which each file defines its part, such as `FORMAT`.
        key: The YAML key whose value is the name of a part, for messages.
        group: The entry-point group is `siredon.<group>`; the last word of the package where two shelves differ in it.
    """

    package: str
    attribute: str
    key: str
    group: str = ""

    @property
    def name(self) -> str:
        """The last word of the package: `formats`."""
        return self.package.rpartition(".")[2]

    @property
    def _part_name(self) -> str:
        return self.name.removesuffix("es") if self.name.endswith("ches") else self.name.removesuffix("s")

    def names(self) -> tuple[str, ...]:
        """The parts on this shelf, own ones and installed plugins, sorted. Imports none of them."""
        folder = str(files(self.package))
        own = [module.name for module in pkgutil.iter_modules([folder])]
        foreign = [entry.name for entry in self._plugins()]
        twice = sorted(set(own) & set(foreign)) or sorted({x for x in foreign if foreign.count(x) > 1})
        if twice:
            raise UnknownPartError(
                f"{self.key}: two parts claim the name {twice[0]!r} on the shelf {self.package}.",
                "Uninstall one of the packages that register it.",
            )
        return tuple(sorted(own + foreign))

    def load(self, name: str) -> Any:
        """Imports the part called `name`.

        Raises:
            UnknownPartError: No such part; the message names the nearest ones.
        """
        names = self.names()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UnknownPartError(
                f"{self.key}: {name!r} is no {self._part_name} that Siredon knows.",
                f"{hint}Known: {', '.join(names)}.",
            )
        for entry in self._plugins():
            if entry.name == name:
                return entry.load()
        return vars(importlib.import_module(f"{self.package}.{name}"))[self.attribute]

    def _plugins(self) -> tuple[metadata.EntryPoint, ...]:
        return _installed_entries(f"siredon.{self.group or self.name}")


@cache
def _installed_entries(group: str) -> tuple[metadata.EntryPoint, ...]:
    """What installed packages register in a group; looked up once, as that reads a file of each package."""
    return tuple(metadata.entry_points(group=group))


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`Did you mean ...? ` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"Did you mean `{near[0]}`? " if near else ""


def find_clear(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is a slip of: one letter off, or two in a long word, with no second as near.

    A word that begins another one may be that, cut short, so it is a slip of none.
    """
    words = list(known)
    if any(other.startswith(word) and other != word for other in words):
        return None
    folded = _fold(word)
    same = [other for other in words if _fold(other) == folded]
    if len(same) == 1:
        return same[0]
    allowed = 0 if len(word) < 3 else 1 if len(word) < 8 else 2
    distances = sorted(
        (distance, other)
        for other in words
        if other[:1] == word[:1]  # People seldom slip there: `fp32` is no slip of `tf32`
        and abs(len(other) - len(word)) <= allowed
        and (distance := _count_edits(word, other)) <= allowed
    )
    is_clear = len(distances) == 1 or (len(distances) > 1 and distances[0][0] < distances[1][0])
    return distances[0][1] if is_clear else None


def _fold(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()


def _count_edits(one: str, other: str) -> int:
    """Letters to add, drop, change or exchange with their neighbour (Damerau, 1964)."""
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        below = [i]
        for j, against in enumerate(other, 1):
            best = min(below[j - 1] + 1, row[j] + 1, row[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                best = min(best, above[j - 2] + 1)
            below.append(best)
        above, row = row, below
    return row[-1]
