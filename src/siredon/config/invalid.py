"""What pydantic finds in the values of a section -> problems with a place, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from siredon.config.deal import allowed_text, built_words, literal_words
from siredon.config.document import KeyPath
from siredon.config.report import Report, dotted
from siredon.config.schema import KeyInfo, find_key
from siredon.registry import find_clear, suggest

#: Kind of problem -> what was expected, where pydantic's own words speak of Python.
_PLAIN = {
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "too_short": "at least one entry",
    "int_type": "a whole number",
    "float_type": "a number",
}


def report_invalid(
    problems: Sequence[Any], fields: Mapping[str, KeyInfo], values: Mapping[str, Any], report: Report
) -> None:
    """Reports each value that has the wrong type or range, once, and each required key that is not set."""
    for problem in problems:
        path = _value_path(problem["loc"], values, missing=problem["type"] == "missing")
        # A list is also "too short" when its only entry is not valid, which is reported already
        if report.is_wrong(path) or (problem["type"] == "too_short" and problem["input"]):
            continue
        name, info = dotted(path), find_key(path, fields)
        if problem["type"] == "missing" and report.is_expected(path):
            continue  # It is there, with a slip in its name
        if problem["type"] == "missing":
            meaning = f" ({info.field.description})" if info else ""
            report.error(
                "SD0007", path, f"`{name}` is required", f"Add `{path[-1]}:`{meaning}.".replace(".).", ").")
            )
            continue
        _report_value(problem, path, info, report)


def _report_value(problem: Any, path: KeyPath, info: KeyInfo | None, report: Report) -> None:
    name, value = dotted(path), problem["input"]
    words = built_words(info) if info else ()
    if info and words and not isinstance(value, (list, dict, bool)):
        value = str(value)
        fix = f"{suggest(value, words, cutoff=0.5)}Allowed: {allowed_text(info)}."
        report.error("SD0006", path, f"`{name}` cannot be {_show(value)}", fix, at_value=True)
        # The nearest may be a word that is known and not built
        clear = find_clear(value, literal_words(info.field.annotation))
        if clear in words:
            report.correct(value, clear, "value")
        return
    cause = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    cause = _PLAIN.get(problem["type"], cause)
    expected = cause if cause.startswith("expected") else f"expected {cause}"
    shown = _show(value)
    fix = _find_way_out(problem, path, info, cause)
    report.error("SD0005", path, f"`{name}` cannot be {shown}: {expected}", fix, at_value=True)


def _find_way_out(problem: Any, path: KeyPath, info: KeyInfo | None, cause: str) -> str:
    value = problem["input"]
    if isinstance(value, dict) and problem["type"] == "tuple_type":
        return "It is a list: put `- ` before each entry."
    if isinstance(value, str) and "number" in cause and value.strip().lstrip("+-").isdecimal():
        return "Remove the quotes."
    if info is None or isinstance(path[-1], int):
        return "Give it a value of that kind."
    return f"Change the value. `{path[-1]}` is: {info.field.description}"


def _show(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, (list, dict)):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    text = f"'{' '.join(value.split())}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value_path(location: Sequence[str | int], values: Any, *, missing: bool) -> KeyPath:
    """A location of pydantic without the names of union branches: only steps that the file really has."""
    path: list[str | int] = []
    for index, step in enumerate(location):
        if missing and index == len(location) - 1:
            path.append(step)
            break
        if _holds(values, step):
            values = values[step]
            path.append(step)
    return tuple(path)


def _holds(values: Any, step: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(step, int) and step < len(values)
    return isinstance(values, dict) and step in values
