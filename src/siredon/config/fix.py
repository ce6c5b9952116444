"""`check --fix`: old names and slips with one clear correction, written into the file; all else stays as it is."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from siredon.config.diagnostics import Diagnostic, Edit, num_errors
from siredon.config.document import Document, parse_value, read_document
from siredon.config.layers import read_layers
from siredon.config.load import check_document
from siredon.errors import SiredonError

#: A line with one key and a plain, quoted or flow value that means the same between braces.
_JOINED = re.compile(
    r"(?P<head>\s*(?:- )?)[\"']?[\w]+[\"']?:\s+"
    r"(?P<value>[\"'\[{].*?|[^\s#&*|>,\[\]{}][^,\[\]{}]*?)(?P<note>(?:\s+#.*?)?)\s*?(?P<end>\r?\n?)"
)
#: A correction can bring another to light: a new name whose value has a slip.
MAX_ROUNDS = 20


def fix_file(path: str) -> str:
    """Writes every clear correction into a file.

    Returns:
        What changed, as a unified diff; empty if nothing did.

    Raises:
        SiredonError: The file cannot be written.
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
    # As it was found: in each place that an alias stands for
    problems = check_document(read_layers(path, text=text)).report.problems
    mine = [problem for problem in problems if problem.path == path and problem.edit is not None]
    changed = correct_text(text, mine)
    if changed == text or _is_better(path, changed, problems, mine):
        return changed
    for problem in mine:
        changed = correct_text(text, [problem])
        if changed != text and _is_better(path, changed, problems, [problem]):
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
    # A mapping that is used in several places has the same edits in each
    distinct = {
        tuple(sorted(edits, key=lambda edit: edit.place)): name for (_, name), edits in groups.items()
    }
    for edits, mapping in distinct.items():
        if any(edit in other for other in distinct if other != edits for edit in edits):
            continue  # In one of those places, more keys would move into the mapping
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
    if not found:
        return
    new, quote = edit.new, found[1]
    if edit.kind == "switch" or "\n" in new:
        quote = ""
    elif edit.kind == "value" and not isinstance(parse_value(new), str):
        quote = quote or '"'  # `no` is a word only in quotes
    if "\n" in new:  # Further keys, on lines of their own like this one
        end = "\r\n" if lines[row].endswith("\r\n") else "\n"
        indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
        new = new.replace("\n", end + indent)
    lines[row] = f"{head}{quote}{new}{quote}{tail[found.end() :]}"


def _is_better(path: str, text: str, before: Sequence[Diagnostic], corrected: Sequence[Diagnostic]) -> bool:
    """Whether some of the problems that were corrected are gone, and none came of that.

    Another may come to light: the value of a key whose name was wrong.
    """
    document = read_layers(path, text=text)
    after = check_document(document).report.problems
    left = {(problem.code, problem.key) for problem in after}
    return (
        document.whole
        and any((problem.code, problem.key) not in left for problem in corrected)
        and _count_torn(after) <= _count_torn(before)
        and (num_errors(before) > 0 or num_errors(after) == 0)
    )


def _count_torn(problems: Iterable[Diagnostic]) -> int:
    """The problems of the YAML as such, and of keys that are set twice."""
    return sum(problem.code in ("SD0001", "SD0002", "SD0011") for problem in problems)


def _write(path: Path, text: str) -> None:
    """Replaces the file at once, with the rights and the byte order mark that it has.

    Raises:
        SiredonError: It cannot be written.
    """
    name = ""
    try:
        path = path.resolve()  # of a link, the file behind it
        mark = b"\xef\xbb\xbf" if path.read_bytes().startswith(b"\xef\xbb\xbf") else b""
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            name = file.name
            file.write(mark + text.encode("utf-8"))
        os.chmod(name, path.stat().st_mode)
        os.replace(name, path)
    except OSError as error:
        if name:
            os.unlink(name)
        reason = error.strerror or str(error)
        fix = "Check the permissions of the file and its folder, or copy it to where you may write."
        raise SiredonError(f"the corrections cannot be written into {path}: {reason}", fix) from None


def _diff(path: str, before: Document, text: str) -> str:
    lines = difflib.unified_diff(
        before.text.splitlines(), text.splitlines(), f"{path} before", f"{path} after", n=1, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)
