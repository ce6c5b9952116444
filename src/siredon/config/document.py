"""Text -> values with a place for each: the only reader of YAML.

YAML 1.1 as PyYAML reads it (so `yes`, `no`, `on`, `off` are booleans), with five differences, all on the
side of what people mean: `1e-4` is a number, `010` is ten, `1:30` and dates are text, duplicate keys are a
problem, and `${NAME}` or `${NAME:-default}` in a value is the environment variable.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siredon.config.diagnostics import Diagnostic, Place

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 30_000

_FLOAT = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+")
_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
#: Characters that YAML does not take as they are, inside of the text that JSON makes.
_UNFIT = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def write_yaml(values: Mapping[str, Any]) -> str:
    """A file with these keys.  JSON is YAML, but for a few characters, and for variables of the environment."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    text = _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return escape_variables(text)


def escape_variables(text: str) -> str:
    """Text that is read as itself, with no `${NAME}` in it taken for a variable of the environment."""
    return _VARIABLE.sub(lambda found: f"${found[0]}", text)


@dataclass(frozen=True)
class Source:
    """Where lines stand: a file, as the user wrote its name, or the command line."""

    name: str
    text: str


@dataclass(frozen=True)
class Document:
    """A YAML file as values, each with its place.

    Args:
        path: The file, as the user wrote it.
        text: What the file holds.
        values: The top-level mapping.
        keys: Path of a value -> place of its key (or of the list item).
        places: Path of a value -> place of the value itself.
        problems: What is wrong with the YAML as such.
        variables: Path of a value -> the environment variables that it was made of.
        sources: Path of a value -> where it stands, if that is not this file.
        whole: Whether all of it, and of what it includes, could be read.
    """

    path: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: tuple[Diagnostic, ...] = ()
    variables: dict[KeyPath, tuple[str, ...]] = field(default_factory=dict)
    sources: dict[KeyPath, Source] = field(default_factory=dict)
    whole: bool = True

    @property
    def source(self) -> Source:
        """The file itself."""
        return Source(self.path, self.text)

    def key_place(self, path: KeyPath) -> Place:
        """Place of the key at `path`, or of the nearest enclosing one."""
        return self.keys.get(self._nearest(path), Place(1, 1))

    def value_place(self, path: KeyPath) -> Place:
        """Place of the value at `path`, or of the nearest enclosing key."""
        return self.places.get(path) or self.key_place(path)

    def source_of(self, path: KeyPath) -> Source:
        """Where the key at `path`, or the nearest enclosing one, stands."""
        return self.sources.get(self._nearest(path), self.source)

    def _nearest(self, path: KeyPath) -> KeyPath:
        while path and path not in self.keys:
            path = path[:-1]
        return path


def read_document(path: str) -> Document:
    """Reads a YAML file.  Never raises for what the file holds: problems are in the document."""
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        return _broken(path, "", "SD0008", f"the file cannot be read: {reason}", "Check the path.")
    if len(raw) > MAX_BYTES:
        size = f"the file has over {MAX_BYTES:,} bytes, which no configuration has"
        return _broken(path, "", "SD0001", size, "Is this the configuration, or a data file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _broken(path, "", "SD0001", f"not UTF-8 text (byte {error.start})", "Save the file as UTF-8.")
    return parse_document(path, text)


def parse_document(path: str, text: str, environment: Mapping[str, str] | None = None) -> Document:
    """Parses YAML text.

    Args:
        path: What the text is called; only shown.
        text: The YAML.
        environment: Variables for `${NAME}`; default those of the process.
    """
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        lines = text.count("\n") + 1
        is_late = error.problem_mark is None or error.problem_mark.line >= lines - (text.endswith("\n"))
        is_key = "simple key" in (error.context or "")
        mark = error.context_mark if (is_late or is_key) and error.context_mark else error.problem_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        cause = ": ".join(part for part in (error.context, error.problem) if part) or "not valid YAML"
        return _broken(path, text, "SD0001", cause, _yaml_fix(text, place), place)
    except (yaml.YAMLError, RecursionError) as error:
        return _broken(path, text, "SD0001", str(error).splitlines()[0], "Write plain YAML text.")
    if root is None or root.tag == "tag:yaml.org,2002:null":
        return _broken(
            path, text, "SD0001", "the file is empty", "`siredon examples list` shows some to start from."
        )
    if not isinstance(root, yaml.MappingNode):
        return _broken(
            path, text, "SD0001", "the top level is no mapping of `key: value`", "Write `key: value` lines."
        )
    reader = _Reader(path, text, os.environ if environment is None else environment)
    try:
        values = reader.read(root, ())
    except _TooLargeError as error:
        return _broken(path, text, "SD0001", str(error), "Use fewer aliases; keep data out of this file.")
    problems = tuple(reader.problems)
    return Document(path, text, values, reader.keys, reader.places, problems, reader.variables)


def parse_value(text: str) -> Any:
    """One value as it would be read from a file; `${NAME}` is left as it is.

    Raises:
        ValueError: It is no YAML.
    """
    if "\n" in text or len(text) > MAX_BYTES:
        return text
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_LOADER)
        reader = _Reader("", text, None)
        value = None if root is None else reader.read(root, ())
    except (yaml.YAMLError, RecursionError, _TooLargeError) as error:
        raise ValueError(str(error)) from None
    if reader.problems:
        raise ValueError(reader.problems[0].message)
    return value


class _TooLargeError(Exception):
    """More values, or deeper ones, than any configuration has."""


class _Reader:
    """Walks a composed YAML tree once; keeps values, places and problems."""

    def __init__(self, path: str, text: str, environment: Mapping[str, str] | None) -> None:
        self.path, self.text, self.environment = path, text, environment
        self.keys: dict[KeyPath, Place] = {}
        self.places: dict[KeyPath, Place] = {}
        self.variables: dict[KeyPath, tuple[str, ...]] = {}
        self.problems: list[Diagnostic] = []
        self._num_nodes = 0

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count(len(path))
        self.places[path] = _place(node)
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._read_item(item, (*path, index)) for index, item in enumerate(node.value)]
        if self.environment is not None and _VARIABLE.search(node.value):
            return self._expand(node, path, self.environment)
        return _read_scalar(node)

    def _expand(self, node: Any, path: KeyPath, environment: Mapping[str, str]) -> Any:
        """A value with environment variables in it; one without quotes is then read as if it stood there."""
        names: list[str] = []

        def replace(found: re.Match[str]) -> str:
            escaped, name, default = found.groups()
            if escaped:
                return found[0][1:]
            # Like the shell's `:-`, which takes the default for an empty variable too
            value = environment.get(name) or default
            if value is None and name not in environment and name not in names:
                self._report_variable(node, path, name)
            names.append(name)
            return value or ""

        text = _VARIABLE.sub(replace, node.value)
        self.variables[path] = tuple(dict.fromkeys(names))
        tag = node.tag if node.style else _resolve_tag(text)
        return _read_scalar(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, style=node.style))

    def _report_variable(self, node: yaml.Node, path: KeyPath, name: str) -> None:
        self._report(
            "SD0013",
            _place(node),
            ".".join(str(step) for step in path),
            f"the environment variable `{name}` is not set",
            f"Set it, or give a default: `${{{name}:-value}}`. A `${{` that is meant so is written `$${{`.",
        )

    def _count(self, depth: int) -> None:
        """Bounds what aliases and merges, which may name themselves, expand to."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise _TooLargeError(f"over {MAX_NODES:,} values, with every alias expanded")
        if depth > MAX_DEPTH:
            raise _TooLargeError(f"aliases nest over {MAX_DEPTH} levels deep")

    def _read_item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.keys[path] = _place(node)
        return self.read(node, path)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        own: dict[str, Place] = {}
        for key_node, value_node, inherited in self._pairs(node, 0):
            name = self._read_name(key_node, path)
            place = _place(key_node)
            if inherited and name in values:
                continue
            if not inherited and name in own:
                self._report(
                    "SD0002",
                    place,
                    ".".join(str(step) for step in (*path, name)),
                    f"`{name}` stands twice; first on line {own[name].line}",
                    "Keep one.",
                )
                continue
            if not inherited:
                own[name] = place
            self.keys[(*path, name)] = place
            values[name] = self.read(value_node, (*path, name))
        return values

    def _read_name(self, node: yaml.Node, path: KeyPath) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        self._report("SD0001", _place(node), "", "a key must be a plain word", "Quote the key.")
        return "?"

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Key and value nodes: the mapping's own first, then what `<<` merges in, the nearest first."""
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merges += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            else:
                yield key_node, value_node, depth > 0
        for merged in merges:
            self._count(depth)
            if isinstance(merged, yaml.MappingNode):
                yield from self._pairs(merged, depth + 1)
            else:
                self._report(
                    "SD0001", _place(merged), "<<", "`<<` merges nothing but mappings", "Write `<<: *anchor`."
                )

    def _report(self, code: str, place: Place, key: str, message: str, fix: str) -> None:
        self.problems.append(Diagnostic(code, "error", message, fix, key, self.path, place, self.text))


def _read_scalar(node: yaml.Node) -> Any:
    try:
        return _convert_scalar(node, str(node.value))
    except (KeyError, ValueError):  # `!!int abc`, `0b_`, 5,000 digits
        return str(node.value)


def _convert_scalar(node: yaml.Node, text: str) -> Any:
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if tag == "null":
        return None
    if tag == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    if tag == "int" and ":" not in text:
        digits = text.replace("_", "")
        return int(digits) if re.fullmatch(r"[-+]?0\d+", digits) else int(digits, 0)
    if tag == "float" and ":" not in text:
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    if tag == "str" and isinstance(node, yaml.ScalarNode) and not node.style and _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _resolve_tag(text: str) -> str:
    """The tag that YAML gives a plain scalar."""
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], []):
        if pattern.match(text):
            return str(tag)
    return "tag:yaml.org,2002:str"


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(f"nested over {MAX_DEPTH} levels deep")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def _yaml_fix(text: str, place: Place) -> str:
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line:
        return "Indent with spaces: YAML allows no tabs."
    return "Check indentation, colons and quotes on this line and the one before."


def _broken(path: str, text: str, code: str, message: str, fix: str, place: Place | None = None) -> Document:
    problem = Diagnostic(code, "error", message, fix, "", path, place or Place(1, 1), text)
    return Document(path, text, problems=(problem,), whole=False)
