"""Collects the problems of one document and gives each its place."""

from __future__ import annotations

from dataclasses import replace

from siredon.config.diagnostics import Diagnostic, Edit, EditKind, Severity
from siredon.config.document import Document, KeyPath

#: The code of what is right and not built.
NOT_BUILT = "SD0004"


class Report:
    """The problems found so far.

    Args:
        document: Where the values stand.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Diagnostic] = list(document.problems)
        self._keys = {problem.key for problem in document.problems}
        self._moved: dict[KeyPath, KeyPath] = {}
        self._expected: set[str] = set()

    def move(self, new: KeyPath, old: KeyPath) -> None:
        """Remembers that the value of `new` stands under its old name in the file."""
        self._moved[new] = old

    def error(self, code: str, path: KeyPath, message: str, fix: str, *, at_value: bool = False) -> None:
        """Adds an error at the key of `path`, or at its value."""
        self.add(code, "error", path, message, fix, at_value=at_value)

    def add(
        self, code: str, severity: Severity, path: KeyPath, message: str, fix: str, *, at_value: bool = False
    ) -> None:
        """Adds a problem at the key of `path`, or at its value."""
        there = self.locate(path)
        source = self.document.source_of(there)
        place = self.document.value_place(there) if at_value else self.document.key_place(there)
        if code != NOT_BUILT or at_value:  # A key that is not built may have a wrong value besides
            self._keys.add(dotted(path))
        self.problems.append(
            Diagnostic(code, severity, message, fix, dotted(path), source.name, place, source.text)
        )

    def correct(self, old: str, new: str, kind: EditKind) -> None:
        """Gives the problem added last its clear correction."""
        problem = self.problems[-1]
        self.problems[-1] = replace(problem, edit=Edit(problem.place, old, new, kind))

    def expect(self, path: KeyPath) -> None:
        """Remembers that a key is probably there, under a name with a slip that has been reported."""
        self._expected.add(dotted(path))

    def is_expected(self, path: KeyPath) -> bool:
        """Whether a key is probably there."""
        return dotted(path) in self._expected

    def wrong_keys(self) -> set[str]:
        """The top-level keys with an error so far, less those that are right and not built."""
        return {
            problem.key.partition(".")[0]
            for problem in self.problems
            if problem.severity == "error" and problem.code != NOT_BUILT
        }

    def is_wrong(self, path: KeyPath) -> bool:
        """Whether a problem of this very key, or its value, has been reported, other than that the key is not built."""
        return dotted(path) in self._keys

    def locate(self, path: KeyPath) -> KeyPath:
        """The path under which a value stands in the file: it may have an old name there."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._moved:
                return (*self._moved[path[:length]], *path[length:])
        return path


def dotted(path: KeyPath) -> str:
    """`datasets.0.type`."""
    return ".".join(str(part) for part in path)
