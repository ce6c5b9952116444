"""Which keys a rule looks at, read off its compiled code; so that a key's page and a rule's page name each other."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from siredon.config.fields import Section, nested_section
from siredon.config.rule import Rule
from siredon.config.schema import KeyInfo, read_fields, section_types


@cache
def read_keys(rule: Rule) -> tuple[str, ...]:
    """The keys that a rule reads or reports, nested ones dotted, in the order of the sections.

    What counts is every name that stands in the code of its check, and of what that calls: attributes, words, and
    the tables of words that it uses.  A name is a key if a section that the rule takes has it.
    """
    sections = {home: section_types()[home] for home in rule.sections}
    names = _Names(tuple(_with_nested(sections.values())))
    names.read_all(rule.check)
    return tuple(
        key for home, section in sections.items() for key in _find(read_fields(section, home), names.found)
    )


def _find(fields: Mapping[str, KeyInfo], names: set[str], prefix: str = "") -> Iterator[str]:
    for name, info in fields.items():
        if name in names or info.attribute in names or prefix + name in names:
            yield prefix + name
            section = nested_section(info.field.annotation)
            if section is not None:
                yield from _find(read_fields(section, info.section), names, f"{prefix}{name}.")


def _with_nested(sections: Iterable[type[Section]]) -> Iterator[type[Section]]:
    for section in sections:
        yield section
        inner = (nested_section(info.annotation) for info in section.model_fields.values())
        yield from _with_nested(part for part in inner if part is not None)


@dataclass
class _Names:
    """Collects the names in a function.

    Args:
        sections: The classes whose properties and methods are followed.
        found: The names.
    """

    sections: tuple[type[Section], ...]
    found: set[str] = field(default_factory=set)
    _seen: set[CodeType] = field(default_factory=set)

    def read_all(self, function: Callable[..., Any]) -> None:
        """Adds the names of a function, and of what it calls in this package."""
        if isinstance(function, FunctionType):
            self._read_code(function.__code__, function.__globals__)

    def _read_own(self, function: Callable[..., Any]) -> None:
        if isinstance(function, FunctionType) and function.__module__.startswith("siredon.config."):
            self.read_all(function)

    def _read_code(self, code: CodeType, around: Mapping[str, Any]) -> None:
        if code in self._seen:
            return
        self._seen.add(code)
        owner: Any = None
        for step in dis.get_instructions(code):
            if isinstance(step.argval, CodeType):
                self._read_code(step.argval, around)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and not isinstance(owner, ModuleType):
                # A method is no key
                if step.opname == "LOAD_ATTR" and "NULL" not in step.argrepr:
                    self.found.add(step.argval)
                self._follow(step.argval)
            elif step.opname == "LOAD_CONST":
                self._read_value(step.argval)
            owner = around.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
            self._read_value(owner)

    def _follow(self, name: str) -> None:
        """Reads a property or method of a section."""
        for section in self.sections:
            member = getattr(section, name, None)
            self._read_own(member.fget if isinstance(member, property) else member)  # type: ignore[arg-type]

    def _read_value(self, value: Any) -> None:
        """Adds the words of a table, or every key of a section that is named as a whole."""
        if isinstance(value, str):
            self.found.add(value)
        elif isinstance(value, dict):
            for part in (*value, *value.values()):
                self._read_value(part)
        elif isinstance(value, (tuple, list, set, frozenset)):
            for part in value:
                self._read_value(part)
        elif isinstance(value, type) and issubclass(value, Section):
            self.found.update(value.model_fields)
        elif isinstance(value, FunctionType):
            self._read_own(value)
