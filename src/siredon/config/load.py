"""A path in; a frozen `Config`, or every problem at once, out.

Neither torch nor transformers is imported on the way.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from siredon.config.checks import conflicts, requirements
from siredon.config.checks.rule import Rule
from siredon.config.diagnostics import (
    Diagnostic,
    count_text,
    num_errors,
    show_text,
    sort_diagnostics,
)
from siredon.config.document import Document, KeyPath, read_document
from siredon.config.fields import Section, nested_sections
from siredon.config.names import REMOVED, RENAMED
from siredon.config.schema import Config, KeyInfo, key_homes, read_fields, section_types
from siredon.errors import ConfigError

RULES: tuple[Rule, ...] = (*requirements.RULES, *conflicts.RULES)


@dataclass(frozen=True)
class Checked:
    """The outcome of reading a file: the config if there is no error, and every problem."""

    config: Config | None
    diagnostics: tuple[Diagnostic, ...]


def load_config(path: str) -> tuple[Config, tuple[Diagnostic, ...]]:
    """Reads and checks a file.

    Returns:
        The config, and the warnings.

    Raises:
        ConfigError: At least one error; the message shows all problems, located.
    """
    checked = check_config(path)
    if checked.config is None:
        report = f"{show_text(checked.diagnostics)}\n\n{path}: {count_text(checked.diagnostics)}"
        raise ConfigError(report, num_errors(checked.diagnostics))
    return checked.config, checked.diagnostics


def check_config(path: str) -> Checked:
    """Reads a file and finds every problem in it."""
    document = read_document(path)
    if document.problems and not document.values:
        return Checked(None, document.problems)
    reporter = _Reporter(document)
    values = _translate_names(document.values, reporter)
    dealt = _deal(values, reporter)
    sections = {home: _build(section, dealt[home], home, reporter) for home, section in section_types().items()}
    for rule in RULES:
        if all(sections[home] is not None for home in rule.sections):
            for finding in rule.check(*(sections[home] for home in rule.sections)):
                path = tuple(int(part) if part.isdigit() else part for part in finding.key.split("."))
                reporter.add(rule.code, finding.severity, path, finding.message, finding.fix)
    problems = sort_diagnostics(reporter.problems)
    if num_errors(problems):
        return Checked(None, problems)
    return Checked(Config(**{home: section for home, section in sections.items() if section}), problems)


class _Reporter:
    """Collects problems and gives each its place in the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Diagnostic] = list(document.problems)
        self.moved: dict[str, str] = {}

    def add(self, code: str, severity: Any, path: KeyPath | str, message: str, fix: str, *, value: bool = False) -> None:
        """Adds a problem at the key (or, with `value`, at the value) of `path`."""
        keys: KeyPath = (path,) if isinstance(path, str) else path
        if keys and keys[0] in self.moved:
            keys = (self.moved[str(keys[0])], *keys[1:])
        place = self.document.value_place(keys) if value else self.document.key_place(keys)
        dotted = ".".join(str(part) for part in keys)
        source = self.document
        self.problems.append(Diagnostic(code, severity, message, fix, dotted, source.path, place, source.text))


def _translate_names(values: Mapping[str, Any], reporter: _Reporter) -> dict[str, Any]:
    """Replaces renamed keys, each with a warning; refuses removed ones."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        rename = RENAMED.get(name)
        if name in REMOVED:
            if value is not None:
                reporter.add("SD0010", "error", name, f"`{name}` no longer exists", REMOVED[name])
        elif rename is None:
            result[name] = value
        elif value is None or (rename.value is not None and value is False):
            continue
        elif values.get(rename.new) is not None:
            fix = f"Remove `{name}`."
            reporter.add("SD0011", "error", name, f"`{name}` and its new name `{rename.new}` are both set", fix)
        else:
            result[rename.new] = value if rename.value is None else rename.value
            reporter.moved[rename.new] = name
            new = rename.new if rename.value is None else f"{rename.new}: {rename.value}"
            reporter.add("SD0009", "warning", name, f"`{name}` is an old name: {rename.reason}", f"Write `{new}`.")
    return result


def _deal(values: Mapping[str, Any], reporter: _Reporter) -> dict[str, dict[str, Any]]:
    """Gives each key to its section.  Null means unset."""
    homes = key_homes()
    dealt: dict[str, dict[str, Any]] = {home: {} for home in section_types()}
    for name, value in values.items():
        info = homes.get(name)
        if info is None:
            _report_unknown((name,), homes, reporter)
        elif value is not None and _accepts(info, value, (name,), reporter):
            dealt[info.section][name] = _clean(value, info, (name,), reporter)
    return dealt


def _accepts(info: KeyInfo, value: Any, path: KeyPath, reporter: _Reporter) -> bool:
    """Whether the key, and this value of it, are built; reports it if not."""
    name = ".".join(str(part) for part in path)
    if info.status == "planned" and not _is_default(info, value):
        reporter.add(
            "SD0004",
            "error",
            path,
            f"`{name}` is a key of Axolotl that Siredon knows but has not built yet",
            "Remove the key, or keep using Axolotl for this run: Siredon does not ignore it.",
        )
        return False
    if isinstance(value, str) and value in info.planned_values:
        reporter.add(
            "SD0004",
            "error",
            path,
            f"`{name}: {value}` is known but not built yet",
            f"Use one of the values that work: {_allowed(info)}.",
            value=True,
        )
        return False
    return info.status == "works"


def _is_default(info: KeyInfo, value: Any) -> bool:
    """Whether a value leaves things as they are: the default itself, or "off" where the default is none."""
    default = info.field.get_default(call_default_factory=True)
    return bool(value == default) or (default is None and value in (False, [], {}, ""))


def _allowed(info: KeyInfo) -> str:
    words = [f"`{word}`" for word in literal_words(info.field.annotation)]
    return ", ".join(words) or "see the configuration reference"


def literal_words(annotation: Any) -> tuple[str, ...]:
    """The strings that a (possibly optional, possibly united) Literal type allows."""
    if get_origin(annotation) is Literal:
        return tuple(word for word in get_args(annotation) if isinstance(word, str))
    return tuple(word for part in get_args(annotation) for word in literal_words(part))


def _clean(value: Any, info: KeyInfo, path: KeyPath, reporter: _Reporter) -> Any:
    """Drops nulls and checks the keys of nested sections, at any depth."""
    section = nested_sections(info.field.annotation)
    if section is None:
        return value
    if isinstance(value, list):
        return [_clean(item, info, (*path, index), reporter) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    known = read_fields(section, str(path[0]))
    cleaned: dict[str, Any] = {}
    for name, inner in value.items():
        if name not in known:
            _report_unknown((*path, name), known, reporter)
        elif inner is not None and _accepts(known[name], inner, (*path, name), reporter):
            cleaned[name] = _clean(inner, known[name], (*path, name), reporter)
    return cleaned


def _report_unknown(path: KeyPath, known: Iterable[str], reporter: _Reporter) -> None:
    name = str(path[-1])
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    where = f" in `{path[0]}`" if len(path) > 1 else ""
    fix = f"Did you mean `{near[0]}`?" if near else "Remove it; `siredon config-schema` lists every key."
    reporter.add("SD0003", "error", path, f"unknown key `{name}`{where}", fix)


def _build(section: type[Section], values: Mapping[str, Any], home: str, reporter: _Reporter) -> Section | None:
    """Validates one section; reports each problem at its value and returns None if there is one."""
    try:
        return section(**values)
    except ValidationError as error:
        fields = read_fields(section, home)
        for problem in error.errors():
            _report_invalid(problem, fields, reporter)
        return None


def _report_invalid(problem: Any, fields: Mapping[str, KeyInfo], reporter: _Reporter) -> None:
    path = tuple(part for part in problem["loc"] if isinstance(part, int) or not _is_type_name(str(part)))
    path = _real_path(path, reporter)
    name = ".".join(str(part) for part in path)
    if problem["type"] == "missing":
        reporter.add("SD0007", "error", path, f"`{name}` is required", f"Add `{path[-1]}:`.")
        return
    seen = {(row.key, row.code) for row in reporter.problems}
    if (name, "SD0005") in seen or (name, "SD0006") in seen:
        return
    value = problem["input"]
    info = fields.get(str(path[0])) if len(path) == 1 else None
    words = literal_words(info.field.annotation) if info else ()
    if isinstance(value, str) and words:
        near = difflib.get_close_matches(value, words, n=1, cutoff=0.5)
        hint = f"Did you mean `{near[0]}`? " if near else ""
        allowed = ", ".join(f"`{word}`" for word in words)
        message = f"`{name}` cannot be `{value}`"
        reporter.add("SD0006", "error", path, message, f"{hint}Allowed: {allowed}.", value=True)
        return
    cause = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    shown = repr(value) if len(repr(value)) < 60 else type(value).__name__
    meaning = info.field.description if info else None
    fix = f"`{name}`: {meaning}" if meaning else f"Give `{name}` a value of that kind."
    reporter.add("SD0005", "error", path, f"`{name}: {shown}` is not valid: expected {cause}".replace("expected expected", "expected"), fix, value=True)


def _is_type_name(part: str) -> bool:
    """Pydantic puts the branch of a union into a location: no key of ours looks like that."""
    return part in {"bool", "int", "float", "str"} or "[" in part or part.startswith("literal")


def _real_path(path: KeyPath, reporter: _Reporter) -> KeyPath:
    while len(path) > 1 and path not in reporter.document.places and path[:-1] in reporter.document.places:
        parent: Any = reporter.document.values
        for part in path[:-1]:
            parent = parent[part] if isinstance(parent, (dict, list)) else None
        if isinstance(parent, dict):
            break
        path = path[:-1]
    return path


