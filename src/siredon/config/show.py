"""What a configuration comes to: every key that works, its value, and where that came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from siredon.config.diagnostics import COMMAND_LINE
from siredon.config.document import KeyPath
from siredon.config.fields import Section
from siredon.config.load import Checked
from siredon.config.report import Report, dotted
from siredon.config.schema import Config, KeyInfo, read_fields, section_types
from siredon.redaction import MASK, redact_values


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Args:
        kind: The file or one it includes, the command line, the default, or other keys.
        file: The file, or the command line; empty for the others.
        line: The line, from 1; 0 where there is none.
        variables: Environment variables that it was made of.
    """

    kind: Literal["file", "command line", "default", "derived"]
    file: str = ""
    line: int = 0
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.kind == "file" else self.kind
        return " ".join((place, *(f"${{{name}}}" for name in self.variables)))


@dataclass(frozen=True)
class Resolved:
    """A key, its value as YAML would hold it, and its origin; what is shown of it holds no secret."""

    key: str
    section: str
    value: Any
    origin: Origin
    is_secret: bool = False

    @property
    def shown(self) -> Any:
        """The value, without secrets."""
        if self.is_secret and self.value is not None:
            return MASK
        return redact_values(self.value, self.key.rpartition(".")[2])

    @property
    def is_set(self) -> bool:
        """Whether it stands in a file or on the command line."""
        return self.origin.kind in ("file", COMMAND_LINE)


def resolve_keys(checked: Checked) -> tuple[Resolved, ...]:
    """Every key that works, in the order of the sections; entries of lists and nested keys by their dotted names."""
    assert checked.config is not None
    found: list[Resolved] = []
    for home, section in section_types().items():
        values = dict(checked.config)[home]
        for name, info in read_fields(section, home).items():
            if info.status == "works":
                found += _resolve(info, (name,), dict(values)[info.attribute], values, checked)
    return tuple(found)


def show_resolved(rows: Sequence[Resolved]) -> str:
    """For people: a block per section, a line per key."""
    texts = [(row, _show_value(row.shown)) for row in rows]
    keys = max((len(row.key) for row in rows), default=0)
    values = min(max((len(text) for _, text in texts), default=0), 60)
    lines: list[str] = []
    for index, (row, text) in enumerate(texts):
        if index == 0 or row.section != texts[index - 1][0].section:
            lines += ["", row.section] if lines else [row.section]
        lines.append(f"  {row.key:<{keys}}  {text:<{values}}  {row.origin}")
    return "\n".join(lines)


def show_resolved_json(rows: Iterable[Resolved]) -> str:
    """For programs: a list of objects with key, section, value, origin, file, line and variables."""
    return json.dumps([_row(row) for row in rows], indent=2, default=str)


@dataclass(frozen=True)
class Difference:
    """A key that two configurations hold different values for; None on the side that lacks it."""

    key: str
    left: Resolved | None
    right: Resolved | None


def compare_resolved(left: Iterable[Resolved], right: Iterable[Resolved]) -> tuple[Difference, ...]:
    """The keys whose values differ, in the order of the sections."""
    ours, theirs = {row.key: row for row in left}, {row.key: row for row in right}
    found = []
    for key in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(key), theirs.get(key)
        if "file" in {row.section for row in (mine, other) if row}:
            continue  # How the files are put together is no part of what they come to
        if mine is None or other is None or mine.value != other.value:
            found.append(Difference(key, mine, other))
    return tuple(found)


def show_differences(differences: Sequence[Difference]) -> str:
    """For people: each key with both values and where they came from."""
    lines = []
    for item in differences:
        lines.append(item.key)
        for mark, row in (("-", item.left), ("+", item.right)):
            lines.append(
                f"  {mark} {_show_value(row.shown)}  ({row.origin})" if row else f"  {mark} not there"
            )
    return "\n".join(lines)


def show_differences_json(differences: Iterable[Difference]) -> str:
    """For programs: a list of objects with key, left and right."""
    rows = [
        {
            "key": item.key,
            "left": _row(item.left) if item.left else None,
            "right": _row(item.right) if item.right else None,
        }
        for item in differences
    ]
    return json.dumps(rows, indent=2, default=str)


def _resolve(
    info: KeyInfo, path: KeyPath, value: Any, owner: Section, checked: Checked
) -> Iterator[Resolved]:
    """A key, or the keys inside it."""
    if isinstance(value, Section):
        yield from _resolve_section(info, path, value, checked)
    elif isinstance(value, tuple) and value and all(isinstance(item, Section) for item in value):
        for index, item in enumerate(value):
            yield from _resolve_section(info, (*path, index), item, checked)
    else:
        origin = _find_origin(path, checked.report)
        if origin.kind == "default" and info.derived and checked.config is not None:
            value, origin = _derive(info, owner, checked.config), Origin("derived")
        yield Resolved(dotted(path), info.section, _plain(value), origin, info.is_secret)


def _resolve_section(info: KeyInfo, path: KeyPath, values: Section, checked: Checked) -> Iterator[Resolved]:
    for name, inner in read_fields(type(values), info.section).items():
        if inner.status == "works":
            yield from _resolve(inner, (*path, name), dict(values)[inner.attribute], values, checked)


def _derive(info: KeyInfo, owner: Section, config: Config) -> Any:
    """What the property of the section, or with `Config.` before it of the whole config, says."""
    of_config = info.derived.startswith("Config.")
    return getattr(config if of_config else owner, info.derived.removeprefix("Config."))


def _find_origin(path: KeyPath, report: Report) -> Origin:
    document = report.document
    there = report.locate(path)
    if there not in document.places or _value_at(document.values, there) is None:
        return Origin("default")
    source = document.source_of(there)
    if source.name == COMMAND_LINE:
        return Origin("command line", COMMAND_LINE)
    return Origin("file", source.name, document.places[there].line, document.variables.get(there, ()))


def _value_at(values: Any, path: KeyPath) -> Any:
    for step in path:
        values = values[step]
    return values


def _plain(value: Any) -> Any:
    """A value as YAML and JSON hold it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


def _show_value(value: Any) -> str:
    """One line of YAML."""
    if value is None:
        return "none"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _row(row: Resolved) -> dict[str, Any]:
    return {
        "key": row.key,
        "section": row.section,
        "value": row.shown,
        "origin": row.origin.kind,
        "file": row.origin.file,
        "line": row.origin.line,
        "variables": list(row.origin.variables),
    }
