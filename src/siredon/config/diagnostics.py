"""A problem in a configuration: code, severity, place, cause, fix; and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from siredon.redaction import redact, redact_line

Severity = Literal["error", "warning"]

EditKind = Literal["key", "value", "switch", "join"]

#: What stands for a file where a value was set by an argument.
COMMAND_LINE = "command line"

#: Characters of a line that are shown.
MAX_SHOWN = 120
_CUT = "... "


class Place(NamedTuple):
    """A position in a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Edit:
    """A correction of the file, where one is clear.

    Args:
        place: Where the text to replace begins.
        old: What stands there, without quotes.
        new: What to write instead.
        kind: A key, a value, a switch: `old: true` whose key and value are both replaced, or a key that moves
            into a mapping that the file does not have yet.
    """

    place: Place
    old: str
    new: str
    kind: EditKind


@dataclass(frozen=True)
class Diagnostic:
    """One problem.

    Args:
        code: `SD` and four digits; stable, documented, searchable.
        severity: An error stops every verb; a warning is shown and the run goes on.
        message: What is wrong.
        fix: The way out, as an instruction.
        key: The key concerned, dotted; empty for the file as a whole.
        path: The file, as the user wrote it.
        place: Where in the file.
        text: The whole text of the file, from which the line is shown.
        edit: The correction, if there is one that is clear.
    """

    code: str
    severity: Severity
    message: str
    fix: str
    key: str
    path: str
    place: Place
    text: str = ""
    edit: Edit | None = None

    @property
    def line_text(self) -> str:
        """The source line concerned, without its line end."""
        lines = _split_lines(self.text)
        return lines[self.place.line - 1] if 0 < self.place.line <= len(lines) else ""


@lru_cache(maxsize=1)
def _split_lines(text: str) -> tuple[str, ...]:
    """Kept for the next problem: a file of 20,000 problems is split once."""
    return tuple(text.splitlines())


def sort_diagnostics(diagnostics: Iterable[Diagnostic], first: str = "") -> tuple[Diagnostic, ...]:
    """By line, column and code: those of the file `first`, then of other files, then of the command line."""

    def order(problem: Diagnostic) -> tuple[int, str, Place, str]:
        rank = 0 if problem.path == first else 2 if problem.path == COMMAND_LINE else 1
        return rank, problem.path, problem.place, problem.code

    return tuple(sorted(diagnostics, key=order))


def num_errors(diagnostics: Iterable[Diagnostic]) -> int:
    """How many of them stop a run."""
    return sum(problem.severity == "error" for problem in diagnostics)


def show_text(diagnostics: Iterable[Diagnostic]) -> str:
    """For people: place, cause, the line with a caret, the fix."""
    blocks = []
    shown: dict[str, str] = {}  # a line with thousands of problems is looked through once
    for problem in diagnostics:
        line, column = problem.place
        text = problem.line_text.rstrip()
        if text not in shown:
            shown[text] = redact_line(text)
        head = f"{problem.path}:{line}:{column}: {problem.severity} {problem.code}: {redact(problem.message)}"
        number = f"{line:>5} | "
        source, column = _crop(shown[text], _move_column(text, shown[text], column))
        lead = "".join("\t" if char == "\t" else " " for char in source[: column - 1])
        marked = [f"{number}{source}", f"{' ' * (len(number) - 2)}| {lead}^"] if source else []
        blocks.append("\n".join([head, *marked, f"      = fix: {redact(problem.fix)}"]))
    return "\n\n".join(blocks)


def _move_column(line: str, shown: str, column: int) -> int:
    """Where a column of a line is in what is shown of it."""
    if shown[: column - 1] == line[: column - 1]:
        return min(column, len(shown) + 1)
    rest = line[column - 1 :]
    if rest and shown.endswith(rest):
        return len(shown) - len(rest) + 1
    before = redact(line[: column - 1])
    return min(len(before) + 1, len(shown) + 1) if shown.startswith(before) else 1


def _crop(line: str, column: int) -> tuple[str, int]:
    """What is shown of a long line: the part around the column, and the column in it."""
    if len(line) <= MAX_SHOWN:
        return line, column
    start = min(max(0, column - 1 - MAX_SHOWN // 2), len(line) - MAX_SHOWN)
    start = start if start > len(_CUT) else 0
    end = start + MAX_SHOWN
    shown = (_CUT if start else "") + line[start:end] + (_CUT if end < len(line) else "")
    return shown, column - start + (len(_CUT) if start else 0)


def show_json(diagnostics: Iterable[Diagnostic]) -> str:
    """For programs: a list of objects with code, severity, message, fix, file, line, column, key."""
    rows = [
        {
            "code": problem.code,
            "severity": problem.severity,
            "message": redact(problem.message),
            "fix": redact(problem.fix),
            "file": problem.path,
            "line": problem.place.line,
            "column": problem.place.column,
            "key": problem.key,
        }
        for problem in diagnostics
    ]
    return json.dumps(rows, indent=2)


def show_github(diagnostics: Iterable[Diagnostic]) -> str:
    """For GitHub Actions: a workflow command per problem, which annotates the line."""
    lines = []
    for problem in diagnostics:
        line, column = problem.place
        where = f"file={_escape(problem.path, ':,')},line={line},col={column},title={problem.code}"
        text = f"{redact(problem.message).rstrip('.')}. Fix: {redact(problem.fix)}"
        lines.append(f"::{problem.severity} {where}::{_escape(text)}")
    return "\n".join(lines)


def _escape(text: str, more: str = "") -> str:
    """What GitHub's workflow commands would take for their own marks, as `%` and two digits."""
    return "".join(f"%{ord(char):02X}" if char in "%\r\n" + more else char for char in text)


def count_text(diagnostics: Iterable[Diagnostic]) -> str:
    """`3 errors, 1 warning`."""
    problems = tuple(diagnostics)
    errors = num_errors(problems)
    warnings = len(problems) - errors
    parts = [f"{errors} error{'s' * (errors != 1)}"] if errors else []
    parts += [f"{warnings} warning{'s' * (warnings != 1)}"] if warnings else []
    return ", ".join(parts)


def show_report(path: str, diagnostics: Iterable[Diagnostic]) -> str:
    """For people: every problem, and their number at the end."""
    problems = tuple(diagnostics)
    return f"{show_text(problems)}\n\n{path}: {count_text(problems)}"
