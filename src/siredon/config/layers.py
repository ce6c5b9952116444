"""A file, what it includes, and what is laid over it: one document in which each value knows where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.document import MAX_BYTES, Document, KeyPath, Source, parse_document, read_document
from siredon.config.names import RENAMED

INCLUDE = "include"
STRICT = "strict"
#: Files that one file may include, all in all.
MAX_INCLUDES = 50


@dataclass(frozen=True)
class Setting:
    """A value that is set from outside the file.

    Args:
        path: The key, such as `("datasets", 0, "path")`.
        value: Its value; None goes back to the default.
        key: Place of the key in the source of its layer.
        place: Place of the value.
    """

    path: KeyPath
    value: Any
    key: Place
    place: Place


@dataclass(frozen=True)
class Layer:
    """Values to lay over a file, and where they stand."""

    source: Source
    settings: tuple[Setting, ...] = ()


def read_layers(path: str, layers: Iterable[Layer] = (), text: str | None = None) -> Document:
    """A file over the files that it includes, under `layers`.  Never raises for what they hold.

    Args:
        path: The file.
        layers: What is laid over it, one after another.
        text: What to take the file to hold; default what it holds.
    """
    document = read_document(path) if text is None else parse_document(path, text)
    document = _include(document, [], [])
    for layer in layers:
        document = lay_over(document, layer)
    return document


def lay_over(document: Document, layer: Layer) -> Document:
    """The document with the values of `layer` set, one after another."""
    if not document.whole:  # What is missing would be blamed on the settings
        return document
    strict = document.values.get(STRICT) is True
    names = {_new_name(name) for name in document.values}
    for setting in layer.settings:
        if setting.path[0] == INCLUDE:
            message, fix = f"`{INCLUDE}` can only stand in a file", "Write it into the file."
            document = _blame(document, layer, setting, ("SD0014", message, fix))
            continue
        if strict and _new_name(str(setting.path[0])) not in names:
            message = f"`{setting.path[0]}` is not set in the file, which says `{STRICT}: true`"
            fix = f"Set the key in the file, or remove `{STRICT}: true`."
            document = _blame(document, layer, setting, ("SD0015", message, fix))
            continue
        try:
            document = _set(document, setting, layer.source)
        except LookupError as error:
            fix = "Name a place that is there, as in `datasets.0.path`, or the next one of a list."
            document = _blame(document, layer, setting, ("SD0014", str(error.args[0]), fix))
    return document


def _blame(document: Document, layer: Layer, setting: Setting, what: tuple[str, str, str]) -> Document:
    code, message, fix = what
    key, source = ".".join(str(step) for step in setting.path), layer.source
    problem = Diagnostic(code, "error", message, fix, key, source.name, setting.key, source.text)
    return replace(document, problems=(*document.problems, problem))


# Includes


def _include(document: Document, above: list[str], sizes: list[int]) -> Document:
    """A file over the files that its `include:` names, in their order, each over those before it.

    Args:
        document: The file.
        above: The real paths of the files that include it.
        sizes: How long each file is that was included so far; this adds to them.
    """
    path = document.path
    asked = document.values.get(INCLUDE)
    if asked is None:
        return document
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not all(map(_is_file_name, names)):
        return _blame_include(document, (INCLUDE,), "`include` is a file, or a list of files")
    base: Document | None = None
    chain = [*above, os.path.realpath(os.path.expanduser(path))]
    problems: list[Diagnostic] = []
    for index, name in enumerate(names):
        key = (INCLUDE, index) if isinstance(asked, list) else (INCLUDE,)
        file = os.path.expanduser(name)
        file = file if os.path.isabs(file) else os.path.join(os.path.dirname(os.path.expanduser(path)), file)
        if len(sizes) >= MAX_INCLUDES:
            return _blame_include(document, key, f"over {MAX_INCLUDES} files are included")
        sizes.append(0)
        if os.path.realpath(file) in chain:
            document = _blame_include(document, key, f"`{name}` includes this file in turn")
            continue
        if not os.path.isfile(file):
            document = _blame_include(document, key, f"there is no file `{file}`")
            continue
        read = read_document(file)
        sizes[-1] = len(read.text)
        if sum(sizes) > MAX_BYTES:
            return _blame_include(document, key, f"the files included have over {MAX_BYTES:,} characters")
        read = _include(read, chain, sizes)
        problems += read.problems
        base = read if base is None else replace(_overlay(base, read), whole=base.whole and read.whole)
    whole = document.whole and (base is None or base.whole)
    # A file that is included twice has its problems once
    document = replace(document, problems=tuple(dict.fromkeys([*document.problems, *problems])), whole=whole)
    return document if base is None else _overlay(base, document)


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name != "" and "\0" not in name


def _blame_include(document: Document, path: KeyPath, message: str) -> Document:
    fix = "Name a YAML file by its path from the folder of this one."
    problem = Diagnostic(
        "SD0012", "error", message, fix, INCLUDE, document.path, document.value_place(path), document.text
    )
    return replace(document, problems=(*document.problems, problem), whole=False)


def _overlay(base: Document, top: Document) -> Document:
    """`top` over `base`: mappings are merged, anything else is replaced.  Problems are those of `top`."""
    values, taken = _merge(base.values, top.values, ())
    kept = [path for path in {*base.keys, *base.places} if not _is_under(path, taken)]
    own = set(top.keys) | set(top.places)
    return replace(
        top,
        values=values,
        keys={path: base.keys[path] for path in kept if path in base.keys} | top.keys,
        places={path: base.places[path] for path in kept if path in base.places} | top.places,
        variables={path: names for path, names in base.variables.items() if path in kept} | top.variables,
        sources={path: base.sources.get(path, base.source) for path in kept if path not in own} | top.sources,
    )


def _merge(
    base: Mapping[str, Any], top: Mapping[str, Any], path: KeyPath
) -> tuple[dict[str, Any], set[KeyPath]]:
    """The merged mapping, and the paths of `base` that `top` took the place of."""
    gone = set() if path else {INCLUDE, *_find_replaced(base, top)}
    values = {name: value for name, value in base.items() if name not in gone}
    taken: set[KeyPath] = {(name,) for name in gone}
    for name, value in top.items():
        below = values.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            values[name], inner = _merge(below, value, (*path, name))
            taken |= inner
        else:
            values[name] = value
            taken.add((*path, name))
    return values, taken


def _find_replaced(base: Mapping[str, Any], top: Mapping[str, Any]) -> Iterator[str]:
    """The keys of `base` that `top` sets by another name."""
    for name in _ALIASED.intersection(top):
        for other in _other_names(name, top[name], base):
            # Two mappings would be merged under one name.  Under two they are a problem that is reported
            if other not in top and not (isinstance(base[other], dict) and isinstance(top[name], dict)):
                yield other


def _is_under(path: KeyPath, tops: set[KeyPath]) -> bool:
    return any(path[:length] in tops for length in range(1, len(path) + 1))


# Old names

#: Names of keys that have more than one.
_ALIASED = frozenset((*RENAMED, *(rename.new for rename in RENAMED.values())))


def _new_name(name: str) -> str:
    return RENAMED[name].new if name in RENAMED else name


def _other_names(name: str, value: Any, values: Mapping[str, Any]) -> list[str]:
    """Those of `values` that `name: value` takes the place of, as they set the same key under another name."""
    same = [
        other
        for other in _ALIASED.intersection(values)
        if other != name and _new_name(other) == _new_name(name)
    ]
    switch = RENAMED.get(name)
    if switch is None or switch.value is None or value is True:
        return same
    # An old switch that is off takes back only what it would switch on
    return [
        other
        for other in same
        if switch.value == (RENAMED[other].value if other in RENAMED else values[other])
    ]


# Settings


def _set(document: Document, setting: Setting, source: Source) -> Document:
    """The document with one value set.

    Raises:
        LookupError: There is no such place; says why.
    """
    values = document.values
    if len(setting.path) == 1:
        # The new name and the old one are one key: what is set later wins
        gone = _other_names(str(setting.path[0]), setting.value, values)
        values = {name: value for name, value in values.items() if name not in gone}
    values = _put(values, setting.path, setting.value)
    kept = [path for path in {*document.keys, *document.places} if not _is_under(path, {setting.path})]
    inside = list(_paths_of(setting.value, setting.path))
    above = [
        setting.path[:length] for length in range(1, len(setting.path)) if setting.path[:length] not in kept
    ]
    places = {path: document.places[path] for path in kept if path in document.places}
    keys = {path: document.keys[path] for path in kept if path in document.keys}
    return replace(
        document,
        values=values,
        keys=keys | dict.fromkeys([*above, setting.path], setting.key) | dict.fromkeys(inside, setting.place),
        places=places | dict.fromkeys([*above, setting.path, *inside], setting.place),
        variables={path: names for path, names in document.variables.items() if path in kept},
        sources={path: found for path, found in document.sources.items() if path in kept}
        | dict.fromkeys([*above, setting.path, *inside], source),
    )


def _put(values: Any, path: KeyPath, value: Any) -> Any:
    """A copy of `values` in which `path` holds `value`.

    Raises:
        LookupError: There is no such place; says why.
    """
    if not path:
        return value
    step = path[0]
    if values is None:
        values = [] if isinstance(step, int) else {}
    if isinstance(values, list):
        if not isinstance(step, int) or step > len(values):
            raise LookupError(f"`{step}` is no entry: the list has {len(values)}, counted from 0")
        items = [*values, None] if step == len(values) else list(values)
        items[step] = _put(items[step], path[1:], value)
        return items
    if not isinstance(values, dict):
        raise LookupError(f"`{step}` cannot be set in a value that is no mapping")
    return {**values, str(step): _put(values.get(str(step)), path[1:], value)}


def _paths_of(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of everything inside a value."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for step, inner in pairs:
        yield (*path, step)
        yield from _paths_of(inner, (*path, step))
