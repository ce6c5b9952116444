"""`check --fix`: old names and slips with one clear correction, written into the file; all else stays as it is."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from siredon.config.diagnostics import Diagnostic, Edit
from siredon.config.document import Document, read_document
from siredon.config.layers import read_layers
from siredon.config.load import check_document

#: A line with one key and a plain, quoted or flow value.
_JOINED = re.compile(
    r"(?P<head>\s*(?:- )?)[\"']?[\w]+[\"']?:\s+(?P<value>[^\s#&*|>].*?)(?P<note>(?:\s+#.*?)?)\s*?(?P<end>\r?\n?)"
)
#: A correction can bring another to light: a new name whose value has a slip.
MAX_ROUNDS = 20


def fix_file(path: str) -> str:
    """Writes every clear correction into a file.

    Returns:
        What changed, as a unified diff; empty if nothing did.
    """
    before = read_document(path)
    text = before.text
    for _ in range(MAX_ROUNDS):
        changed = _correct_once(path, text)
        if changed == text:
            break
        text = changed
    if text == before.text:
        return ""
    _write(Path(os.path.expanduser(path)), text)
    return _diff(path, before, text)


def _correct_once(path: str, text: str) -> str:
    """The text with all clear corrections; where they do not go together, with those that help."""
    problems = check_document(read_layers(path, text=text)).diagnostics
    mine = [problem for problem in problems if problem.path == path and problem.edit is not None]
    changed = correct_text(text, mine)
    if changed == text or _is_better(path, changed, problems):
        return changed
    for problem in mine:
        changed = correct_text(text, [problem])
        if changed != text and _is_better(path, changed, problems):
            return changed
    return text


def correct_text(text: str, problems: Iterable[Diagnostic]) -> str:
    """The text with the corrections that these problems carry."""
    lines = text.splitlines(keepends=True)
    problems = list(problems)
    edits = {problem.edit.place: problem.edit for problem in problems if problem.edit is not None}
    for place in sorted(edits, reverse=True):
        if edits[place].kind != "join":
            _correct_line(lines, edits[place])
    _join(lines, problems)
    return "".join(lines)


def _join(lines: list[str], problems: Sequence[Diagnostic]) -> None:
    """Old keys that move into one mapping: it takes the line of the first, and the lines of the others go."""
    groups: dict[tuple[str, str], list[Edit]] = {}
    for problem in problems:
        if problem.edit is not None and problem.edit.kind == "join":
            mapping = problem.edit.new.partition(".")[0]
            groups.setdefault((problem.key.rpartition(".")[0], mapping), []).append(problem.edit)
    for (_, mapping), edits in groups.items():
        edits.sort(key=lambda edit: edit.place)
        found = [match for edit in edits if (match := _JOINED.fullmatch(lines[edit.place.line - 1]))]
        if len(found) < len(edits) or any(match["note"] or "-" in match["head"] for match in found[1:]):
            continue  # Not one key a line, or a line that goes would take its comment with it
        pairs = [
            f"{edit.new.partition('.')[2]}: {match['value']}"
            for edit, match in zip(edits, found, strict=True)
        ]
        head, note, end = found[0].group("head", "note", "end")
        lines[edits[0].place.line - 1] = f"{head}{mapping}: {{{', '.join(pairs)}}}{note}{end}"
        for edit in edits[1:]:
            lines[edit.place.line - 1] = ""


def _correct_line(lines: list[str], edit: Edit) -> None:
    """Changes a line where it holds what the edit expects there."""
    row, column = edit.place.line - 1, edit.place.column - 1
    if row >= len(lines):
        return
    head, tail = lines[row][:column], lines[row][column:]
    quoted = rf"([\"']?){re.escape(edit.old)}\1"
    if edit.kind == "switch":  # `old: true` -> `new: value`
        found = re.match(rf"{quoted}\s*:\s+\w+", tail)
    else:
        found = re.match(rf"{quoted}(?=\s*:)" if edit.kind == "key" else rf"{quoted}(?=[\s,\]}}]|$)", tail)
    if found:
        quote = found[1] if edit.kind != "switch" else ""
        lines[row] = f"{head}{quote}{edit.new}{quote}{tail[found.end() :]}"


def _is_better(path: str, text: str, before: Sequence[Diagnostic]) -> bool:
    """Whether a corrected text has fewer problems that can be corrected, and no error that was hidden by nothing."""
    after = check_document(read_layers(path, text=text)).diagnostics
    return not any(problem.code in ("SD0001", "SD0002", "SD0011") for problem in after) and sum(
        problem.edit is not None for problem in after
    ) < sum(problem.edit is not None for problem in before)


def _write(path: Path, text: str) -> None:
    """Replaces the file at once, with the rights and the byte order mark that it has."""
    path = path.resolve()  # of a link, the file behind it
    mark = b"\xef\xbb\xbf" if path.read_bytes().startswith(b"\xef\xbb\xbf") else b""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(mark + text.encode("utf-8"))
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def _diff(path: str, before: Document, text: str) -> str:
    lines = difflib.unified_diff(
        before.text.splitlines(), text.splitlines(), f"{path} before", f"{path} after", n=1, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)
