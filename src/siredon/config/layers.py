"""A file, what it includes, and what is laid over it: one document in which each value knows where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.document import Document, KeyPath, Source, parse_document, read_document
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
    document = _include(document, [], [0])
    for layer in layers:
        document = lay_over(document, layer)
    return document


def lay_over(document: Document, layer: Layer) -> Document:
    """The document with the values of `layer` set, one after another."""
    strict = document.values.get(STRICT) is True
    names = {_new_name(name) for name in document.values}
    for setting in layer.settings:
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


def _include(document: Document, above: list[str], count: list[int]) -> Document:
    """A file over the files that its `include:` names, in their order, each over those before it."""
    path = document.path
    asked = document.values.get(INCLUDE)
    if asked is None:
        return document
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return _blame_include(document, (INCLUDE,), "`include` is a file, or a list of files")
    base: Document | None = None
    chain = [*above, os.path.realpath(os.path.expanduser(path))]
    problems: list[Diagnostic] = []
    for index, name in enumerate(names):
        key = (INCLUDE, index) if isinstance(asked, list) else (INCLUDE,)
        file = os.path.expanduser(name)
        file = file if os.path.isabs(file) else os.path.join(os.path.dirname(path), file)
        count[0] += 1
        if os.path.realpath(file) in chain:
            document = _blame_include(document, key, f"`{name}` includes this file in turn")
            continue
        if count[0] > MAX_INCLUDES:
            return _blame_include(document, key, f"over {MAX_INCLUDES} files are included")
        if not os.path.isfile(file):
            document = _blame_include(document, key, f"there is no file `{file}`")
            continue
        read = _include(read_document(file), chain, count)
        problems += read.problems
        base = read if base is None else replace(_overlay(base, read), whole=base.whole and read.whole)
    whole = document.whole and (base is None or base.whole)
    document = replace(document, problems=(*document.problems, *problems), whole=whole)
    return document if base is None else _overlay(base, document)


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
    values = {name: value for name, value in base.items() if path or name != INCLUDE}
    taken: set[KeyPath] = {(INCLUDE,)}
    for name, value in top.items():
        below = values.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            values[name], inner = _merge(below, value, (*path, name))
            taken |= inner
        else:
            values[name] = value
            taken.add((*path, name))
    return values, taken


def _is_under(path: KeyPath, tops: set[KeyPath]) -> bool:
    return any(path[:length] in tops for length in range(1, len(path) + 1))


# Settings


def _new_name(name: str) -> str:
    return RENAMED[name].new if name in RENAMED else name


def _set(document: Document, setting: Setting, source: Source) -> Document:
    """The document with one value set.

    Raises:
        LookupError: There is no such place; says why.
    """
    values = document.values
    if len(setting.path) == 1:
        # The new name and the old one are one key: what is set later wins
        same = _new_name(str(setting.path[0]))
        values = {name: value for name, value in values.items() if _new_name(name) != same}
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
    if isinstance(values, list):
        if not isinstance(step, int) or step > len(values):
            raise LookupError(f"`{step}` is no entry: the list has {len(values)}, counted from 0")
        items = [*values, None] if step == len(values) else list(values)
        items[step] = _put(items[step], path[1:], value)
        return items
    if values is None:
        values = {}
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
