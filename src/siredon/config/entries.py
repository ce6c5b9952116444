"""What the reference says of a key: type, default and status in words, and the codes that are about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from siredon.config.codes import all_pages, touched_keys
from siredon.config.deal import built_words
from siredon.config.fields import A_HUB_ID, Section, StrList, nested_section
from siredon.config.schema import KeyInfo, key_homes, read_fields, section_types

_TEXTS = get_args(StrList)[1]
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_KINDS = {bool: "true / false", int: "whole number", float: "number", str: "text", Any: "any value"}
_MANY = {"whole number": "whole numbers", "number": "numbers", "mapping": "mappings"}
_COUNTS = {2: "pair", 3: "triple"}


@dataclass(frozen=True)
class Entry:
    """A key of the YAML, at any depth.

    Args:
        name: Its name, dotted if it is inside another: `datasets.type`.
        info: What its section says of it.
    """

    name: str
    info: KeyInfo

    @property
    def works(self) -> bool:
        """Whether setting it has an effect."""
        return self.info.status == "works"

    @property
    def meaning(self) -> str:
        """What it does."""
        return self.info.field.description or ""

    @property
    def kind(self) -> str:
        """Its type in words: those words of it that work, and its limits."""
        field, built = self.info.field, built_words(self.info)
        return _describe(field.annotation, tuple(field.metadata), built)

    @property
    def default(self) -> str:
        """Its value when a file does not set it, as YAML, or what holds then."""
        field = self.info.field
        value = field.get_default(call_default_factory=True)
        least = max((getattr(limit, "min_length", 0) for limit in field.metadata), default=0)
        if value is PydanticUndefined or value is ... or (least and len(value) < least):
            return "required"
        if value is None or value == "":
            return "unset"
        if isinstance(value, (Section, dict, tuple)) and not _plain(value):
            return "empty"
        return f"`{_show(_plain(value))}`"

    @property
    def explains_default(self) -> bool:
        """Whether its meaning says what holds where it is not set."""
        return "default " in self.meaning and self.default == "unset"

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """Values of it that are known and not built yet, of a key that works."""
        words = tuple(f"`{word}`" for word in self.info.planned_values)
        if self.info.plans_value({}):
            words += ("a mapping",)
        if self.info.plans_value(A_HUB_ID):
            words += (f"an id of the hub (`{A_HUB_ID}`)",)
        return words

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that are about it."""
        return _codes_by_key()[self.name]


@dataclass(frozen=True)
class Group:
    """Keys that stand together: of a section, or inside one of its keys.

    Args:
        section: Name of the section in `Config`.
        about: What its class says of it.
        owners: The keys that hold these, dotted; none for the top level.
        entries: The keys.
    """

    section: str
    about: str
    owners: tuple[str, ...]
    entries: tuple[Entry, ...]


@cache
def all_groups() -> tuple[Group, ...]:
    """Every key once, in the order of the sections; a group of nested keys follows that of its first owner."""
    groups: list[Group] = []
    for home, section in section_types().items():
        groups.append(_group(home, section, ()))
        groups += _nested(home, section)
    return tuple(groups)


def find_entry(word: str) -> Entry | None:
    """The key of a name such as `trl.beta`; numbers of list entries are passed over.  None for no key."""
    steps = [step for step in word.strip().split(".") if not step.isdecimal()]
    known: Mapping[str, KeyInfo] = key_homes()
    for index, step in enumerate(steps):
        info = known.get(step)
        if info is None:
            return None
        if index == len(steps) - 1:
            return Entry(_first_name(".".join(steps)), info)
        section = nested_section(info.field.annotation)
        known = read_fields(section, info.section) if section else {}
    return None


def all_names() -> tuple[str, ...]:
    """The names of all keys, nested ones dotted."""
    return tuple(entry.name for group in all_groups() for entry in group.entries)


def _group(home: str, section: type[Section], owners: tuple[str, ...]) -> Group:
    prefix = f"{owners[0]}." if owners else ""
    entries = tuple(Entry(prefix + name, info) for name, info in read_fields(section, home).items())
    return Group(home, " ".join((section.__doc__ or "").split()), owners, entries)


def _nested(home: str, section: type[Section], prefix: str = "") -> Iterator[Group]:
    """The groups inside a section, at any depth; each class once, under all keys that hold it."""
    owners: dict[type[Section], list[str]] = defaultdict(list)
    for name, info in read_fields(section, home).items():
        inner = nested_section(info.field.annotation)
        if inner is not None:
            owners[inner].append(prefix + name)
    for inner, names in owners.items():
        if _owners()[inner][0] == names[0]:
            yield _group(home, inner, tuple(_owners()[inner]))
            yield from _nested(home, inner, f"{names[0]}.")


@cache
def _owners() -> dict[type[Section], list[str]]:
    """Nested section -> the keys that hold it, in order, under the first name of each."""
    found: dict[type[Section], list[str]] = defaultdict(list)
    waiting = [("", home, section) for home, section in section_types().items()]
    while waiting:
        prefix, home, section = waiting.pop(0)
        for name, info in read_fields(section, home).items():
            inner = nested_section(info.field.annotation)
            if inner is not None:
                found[inner].append(prefix + name)
                if len(found[inner]) == 1:
                    waiting.append((f"{prefix}{name}.", home, inner))
    return found


def _first_name(name: str) -> str:
    """The name under which a key is listed: inside the first key that holds its section."""
    head, dot, last = name.rpartition(".")
    if not dot:
        return name
    head = _first_name(head)
    for names in _owners().values():
        if head in names:
            return f"{names[0]}.{last}"
    return f"{head}.{last}"


@cache
def _codes_by_key() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for page in all_pages():
        for key in touched_keys(page):
            found[_first_name(key)][page.code] = None
    return defaultdict(tuple, {key: tuple(codes) for key, codes in found.items()})


# Types and values in words


def _describe(annotation: Any, limits: tuple[Any, ...] = (), words: tuple[str, ...] = ()) -> str:
    """A type in words: `whole number ≥ 1`.

    Args:
        annotation: The type.
        limits: What pydantic checks beside it.
        words: The words of a `Literal` that count; none for all.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(parts[0], (*parts[1:], *limits), words)
    if origin in (Union, UnionType):
        kinds = [_describe(part, limits, words) for part in parts if part is not type(None)]
        # `true / false / auto`, but `text or mapping`
        of_words = [kind for kind in kinds if kind.startswith(("`", "true"))]
        return " or ".join([" / ".join(of_words)] * bool(of_words) + [x for x in kinds if x not in of_words])
    if origin is Literal:
        return " / ".join(f"`{word}`" for word in parts if not words or word in words)
    if origin is tuple:
        return _describe_list(parts, words, is_texts=_TEXTS in limits)
    if origin is dict:
        return _describe_mapping(*parts)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping"
    return f"{_KINDS[annotation]} {_limits(limits)}".strip()


def _describe_list(parts: tuple[Any, ...], words: tuple[str, ...], *, is_texts: bool) -> str:
    inner = _describe(parts[0], (), words)
    if is_texts:
        return "list of text, or one text"
    many = _MANY.get(inner, inner)
    if parts[1:] != (...,):
        return f"{_COUNTS[len(parts)]} of {many}"
    return f"list of {many.replace(' of ', 's of ', 1)}"


def _describe_mapping(name: Any, value: Any) -> str:
    if get_origin(name) is Literal:
        return f"mapping of {_describe(name).replace(' / ', ', ')}"
    if value is Any:
        return "mapping"
    return f"mapping of {_describe(name)} to {_describe(value)}"


def _limits(limits: tuple[Any, ...]) -> str:
    found = [
        f"{shown} {_show_limit(getattr(limit, sign))}"
        for sign, shown in _SIGNS.items()
        for limit in limits
        if getattr(limit, sign, None) is not None
    ]
    return " and ".join(found)


def _show_limit(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _plain(value: Any) -> Any:
    """A default as YAML would hold it."""
    if isinstance(value, Section):
        return {name: inner for name, inner in dict(value).items() if _plain(inner)}
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_show(inner)}' for name, inner in value.items())}}}"
    return str(value)
