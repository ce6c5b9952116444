"""Words of the command line -> values laid over the file: `--learning-rate 1e-4`, `--trl.beta=0.1`,
`datasets.0.path=x`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from siredon.config.deal import allows_bool, literal_words
from siredon.config.diagnostics import COMMAND_LINE, Place
from siredon.config.document import KeyPath, Source, parse_value
from siredon.config.layers import Layer, Setting
from siredon.config.names import RENAMED
from siredon.config.schema import KeyInfo, find_key

_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
_NOTHING = ("", "~", "null", "Null", "NULL")
_INDEX = re.compile(r"[0-9]{1,9}")
_OPTION = re.compile(r"--([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)


def split_words(words: Sequence[str]) -> tuple[list[str], Layer]:
    """The words that are no settings, in their order, and the settings.

    `--key value` and `--key=value` take dashes for underscores.  A switch needs no value, and `--no-key` turns it
    off.  A value is read as YAML, but for keys that hold text.
    """
    text = shlex.join(words)
    starts = _starts(words)
    rest: list[str] = []
    settings: list[Setting] = []
    waiting = list(range(len(words)))
    while waiting:
        index = waiting.pop(0)
        word, start = words[index], starts[index]
        option, assignment = _OPTION.fullmatch(word), _ASSIGNMENT.fullmatch(word)
        if option:
            value = option[2]
            path, switched_off = _read_option(option[1], alone=value is None)
            place = start + len(option[1]) + 3
            if value is None and not switched_off and waiting and _takes(path, words[waiting[0]]):
                following = waiting.pop(0)
                value, place = words[following], starts[following]
            elif value is None:  # Alone it is a switch, whatever the key holds
                settings.append(Setting(path, not switched_off, Place(1, start), Place(1, start)))
                continue
            settings.append(_build(path, value, start, place))
        elif assignment and not os.path.exists(word):
            path = _split_path(assignment[1])
            settings.append(_build(path, assignment[2], start, start + len(assignment[1]) + 1))
        else:
            rest.append(word)
    return rest, Layer(Source(COMMAND_LINE, text), tuple(settings))


def _build(path: KeyPath, text: str, key: int, place: int) -> Setting:
    return Setting(path, _read_value(path, text), Place(1, key), Place(1, place))


def _starts(words: Sequence[str]) -> list[int]:
    """Column of each word in the line that `shlex.join` makes of them, behind its quote if it has one."""
    starts, column = [], 1
    for word in words:
        quoted = shlex.quote(word)
        starts.append(column + (quoted != word))
        column += len(quoted) + 1
    return starts


def _read_option(name: str, *, alone: bool) -> tuple[KeyPath, bool]:
    """The path that an option names, and whether it turns a switch off, which it does `alone`, with no value."""
    path = _split_path(name.replace("-", "_"))
    first = str(path[0])
    if alone and first.startswith("no_") and _find(path) is None:
        positive = (first.removeprefix("no_"), *path[1:])
        if _is_switch(positive):
            return positive, True
    return path, False


def _split_path(name: str) -> KeyPath:
    return tuple(int(step) if _INDEX.fullmatch(step) else step for step in name.split("."))


def _is_switch(path: KeyPath) -> bool:
    """Whether true and false are values of the key at a path; they are of an old switch, too."""
    rename = RENAMED.get(str(path[0]))
    if rename is not None and rename.value is not None:
        return len(path) == 1
    info = _find(path)
    return info is not None and allows_bool(info.field.annotation)


def _find(path: KeyPath) -> KeyInfo | None:
    """The key at a path, under its new name."""
    rename = RENAMED.get(str(path[0]))
    return find_key(path) or (find_key((*rename.new.split("."), *path[1:])) if rename else None)


def _takes(path: KeyPath, word: str) -> bool:
    """Whether the word after an option is its value: for a switch, only true, false and the like are."""
    if word.startswith("--"):
        return False
    if not _is_switch(path):
        return True
    info = _find(path)
    words = literal_words(info.field.annotation) if info else ()
    return word.lower() in (*yaml.SafeLoader.bool_values, "null", "~", "") or word in words


def _read_value(path: KeyPath, text: str) -> Any:
    """The value of a word: text for a key that holds nothing else, or for one of its words, YAML otherwise."""
    info = _find(path)
    annotation = info.field.annotation if info else None
    if text in literal_words(annotation):
        return text
    if text.strip() in _NOTHING:
        return None
    try:
        value = parse_value(text)
    except ValueError:
        return text
    is_quoted = isinstance(value, str) and text.startswith(("'", '"'))
    # In YAML, `#3` is a comment, and `run #3` ends before one
    if value is None or (_is_text(annotation) and not is_quoted):
        return text
    return value


def _is_text(annotation: Any) -> bool:
    """Whether a type is text, or text or nothing."""
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    is_union = get_origin(annotation) in (Union, UnionType)
    return annotation is str or (is_union and all(_is_text(kind) for kind in kinds))
