"""A sweep file -> the axes of its search space, and every problem in it, located.

The format is Axolotl's: a key and the list of its values; under `_` a list of mappings that are set together.
Keys inside others are dotted names or mappings, a single value is a list of one, and a mapping with `min` and
`max` is a range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from siredon.config.diagnostics import Diagnostic, Place
from siredon.config.document import Document, KeyPath, Source, read_document
from siredon.config.layers import Layer, Setting
from siredon.config.names import RENAMED
from siredon.config.report import dotted
from siredon.config.schema import find_key
from siredon.sweep.trial import Trial, to_json

JOINT = "_"
#: More runs than anybody waits for; each is checked before the first one starts.
MAX_TRIALS = 1000

_RANGE_WORDS = ("min", "max", "log", "step")
_RANGE_FORM = "Write `{min: 1e-5, max: 1e-3, log: true}`, or `{min: 8, max: 64, step: 8}`."
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_OF_THE_SWEEP = "Remove it: each trial gets a folder of its own, in which it goes on where it stopped."
_OF_THE_FILE = "Remove it: it decides how the file is read, before there is a trial."
#: Keys that cannot be swept, and the way out.
_RESERVED = {
    "output_dir": _OF_THE_SWEEP,
    "auto_resume_from_checkpoints": _OF_THE_SWEEP,
    "resume_from_checkpoint": _OF_THE_SWEEP,
    "include": _OF_THE_FILE,
    "strict": _OF_THE_FILE,
}


@dataclass(frozen=True)
class Choices:
    """Values of which a trial takes one.

    Args:
        name: The key, dotted; `_` for sets of several keys.
        options: What a trial may take: one setting, or for `_` those of one set.
    """

    name: str
    options: tuple[tuple[Setting, ...], ...]


@dataclass(frozen=True)
class Range:
    """Numbers from which a trial takes one; both ends are among them.

    Args:
        path: The key.
        key: Place of the key in the sweep file.
        place: Place of the range.
        low: The least value.
        high: The greatest; with a step the greatest that a step reaches.
        log: Equal ratios are equally likely, not equal differences.
        step: Distance of two neighbours; None for every number.
        is_whole: Only whole numbers.
    """

    path: KeyPath
    key: Place
    place: Place
    low: float
    high: float
    log: bool
    step: float | None
    is_whole: bool

    @property
    def name(self) -> str:
        """The key, dotted."""
        return dotted(self.path)

    @property
    def num_steps(self) -> int | None:
        """Steps from the least value to the greatest; None without a step."""
        return None if self.step is None else round((self.high - self.low) / self.step)

    def set_value(self, value: float) -> Setting:
        """The setting of a value: six digits of it, so that it can be read in a table and written by hand."""
        value = round(value) if self.is_whole else float(f"{value:.6g}")
        return Setting(self.path, min(max(value, self.low), self.high), self.key, self.place)

    def set_step(self, number: int) -> Setting:
        """The setting of the value that is `number` steps above the least."""
        return self.set_value(self.low + number * (self.step or 0))


@dataclass(frozen=True)
class Space:
    """What is swept.

    Args:
        source: The sweep file.
        axes: What varies, in the order of the file.
        problems: What is wrong with the file; such keys are no axes.
        whole: Whether the file could be read at all.
    """

    source: Source
    axes: tuple[Choices | Range, ...]
    problems: tuple[Diagnostic, ...] = ()
    whole: bool = True

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The axes that are ranges."""
        return tuple(axis for axis in self.axes if isinstance(axis, Range))

    @property
    def choices(self) -> tuple[Choices, ...]:
        """The axes that are lists."""
        return tuple(axis for axis in self.axes if isinstance(axis, Choices))

    @property
    def size(self) -> int:
        """Trials in the grid of the lists."""
        return math.prod(len(axis.options) for axis in self.choices)

    def grid_trial(self, index: int) -> Trial:
        """The trial at an index of the grid, from 0: the last key varies fastest."""
        picks: list[tuple[Setting, ...]] = []
        rest = index
        for axis in reversed(self.choices):
            rest, pick = divmod(rest, len(axis.options))
            picks.append(axis.options[pick])
        return Trial(index + 1, tuple(setting for options in reversed(picks) for setting in options))


def read_space(path: str, layer: Layer, *, is_grid: bool) -> Space:
    """Reads a sweep file.  Never raises for what it holds: problems are in the space.

    Args:
        path: The file.
        layer: What the command line sets, which cannot be swept too.
        is_grid: Every combination is a trial: there can be no range, and not too many of them.
    """
    document = read_document(path)
    if not document.whole:
        return Space(document.source, (), document.problems, whole=False)
    reader = _Reader(document, layer, is_grid=is_grid)
    axes = tuple(reader.read_axes(document.values, (), ()))
    space = Space(document.source, axes)
    if not document.values:
        reader.report("SD0401", (), "there is nothing to sweep", "Write `key: [value, value]` lines.")
    if is_grid and space.size > MAX_TRIALS:
        message = f"the grid has {space.size:,} trials, and a sweep has at most {MAX_TRIALS:,}"
        reader.report("SD0408", (), message, "Take a random part of it with `--sweep-runs`, or fewer values.")
    return Space(document.source, axes, tuple(reader.problems))


class _Reader:
    """Walks a sweep file once; keeps the problems, and which keys have been seen."""

    def __init__(self, document: Document, layer: Layer, *, is_grid: bool) -> None:
        self.document, self.is_grid = document, is_grid
        self.problems = list(document.problems)
        self._taken: dict[KeyPath, str] = {
            _canonical(setting.path): "on the command line" for setting in layer.settings
        }

    def report(self, code: str, there: KeyPath, message: str, fix: str, *, at_value: bool = False) -> None:
        """Adds an error at a key of the sweep file, or at its value."""
        document = self.document
        place = document.value_place(there) if at_value else document.key_place(there)
        problem = Diagnostic(code, "error", message, fix, dotted(there), document.path, place, document.text)
        self.problems.append(problem)

    def read_axes(
        self, values: Mapping[str, Any], there: KeyPath, path: KeyPath
    ) -> Iterator[Choices | Range]:
        """The axes of a mapping.

        Args:
            values: The mapping.
            there: Where it stands in the sweep file.
            path: The key of the configuration that it is about.
        """
        for name, value in values.items():
            inner = (*there, name)
            if name == JOINT and not path:
                yield from self._read_joint(value, inner)
                continue
            steps = self._read_name(name, inner)
            if steps is None:
                continue
            key = (*path, *steps)
            if isinstance(value, dict) and value and not _is_range(value):
                yield from self.read_axes(value, inner, key)
            elif self._claim(key, inner, self._taken):
                axis = self._read_axis(value, inner, key)
                if axis is not None:
                    yield axis

    def _read_axis(self, value: Any, there: KeyPath, path: KeyPath) -> Choices | Range | None:
        if isinstance(value, dict) and value:
            return self._read_range(value, there, path)
        if not isinstance(value, list):
            return Choices(dotted(path), ((self._set(path, value, there, there),),))
        if not value:
            self.report("SD0401", there, f"`{dotted(path)}` has no value to try", "Give at least one.")
            return None
        options = [(self._set(path, item, there, (*there, index)),) for index, item in enumerate(value)]
        return Choices(dotted(path), _merge_equal(options))

    def _set(self, path: KeyPath, value: Any, key: KeyPath, there: KeyPath) -> Setting:
        return Setting(path, value, self.document.key_place(key), self.document.value_place(there))

    # Sets of several keys

    def _read_joint(self, value: Any, there: KeyPath) -> Iterator[Choices]:
        fix = "Write `- {key: value, other_key: value}` lines under it."
        if value == []:
            self.report("SD0401", there, f"`{JOINT}` has no set to try", fix)
        elif not isinstance(value, list):
            self.report("SD0404", there, f"`{JOINT}` is a list of sets", fix, at_value=True)
        else:
            taken = dict(self._taken)
            options = []
            for index, item in enumerate(value):
                if not isinstance(item, dict):
                    message = f"a set under `{JOINT}` is a mapping of keys to values"
                    self.report("SD0404", (*there, index), message, fix, at_value=True)
                    continue
                # Sets are alternatives: each may name the keys of another one
                own = dict(taken)
                options.append(tuple(self._read_set(item, (*there, index), (), own)))
                self._taken |= {path: f"under `{JOINT}`" for path in own if path not in taken}
            if options:
                yield Choices(JOINT, _merge_equal(options))

    def _read_set(
        self, values: Mapping[str, Any], there: KeyPath, path: KeyPath, taken: dict[KeyPath, str]
    ) -> Iterator[Setting]:
        for name, value in values.items():
            inner = (*there, name)
            steps = self._read_name(name, inner)
            if steps is None:
                continue
            key = (*path, *steps)
            if isinstance(value, dict) and _is_range(value):
                message = f"a range cannot be part of a set under `{JOINT}`"
                self.report("SD0405", inner, message, "Give one value here.", at_value=True)
            elif isinstance(value, dict) and value:
                yield from self._read_set(value, inner, key, taken)
            elif self._claim(key, inner, taken):
                yield self._set(key, value, inner, inner)

    # Keys

    def _read_name(self, name: str, there: KeyPath) -> KeyPath | None:
        """The path that a key names; None if it cannot be one."""
        if not _NAME.fullmatch(name if len(there) == 1 else f"_.{name}"):
            message = f"`{name}` cannot be set from outside a file: a key has letters, digits and `_`"
            fix = "Mend the name; or sweep the mapping around it, as a list of whole mappings."
            self.report("SD0407", there, message, fix)
            return None
        return tuple(int(step) if step.isdecimal() else step for step in name.split("."))

    def _claim(self, path: KeyPath, there: KeyPath, taken: dict[KeyPath, str]) -> bool:
        """Whether a key may be swept: it is no key of the sweep itself, and no other sets it, or a part of it."""
        own = _canonical(path)
        name = dotted(path)
        if own[0] in _RESERVED:
            self.report("SD0402", there, f"`{name}` cannot be swept", _RESERVED[str(own[0])])
            return False
        for other, where in taken.items():
            if other[: len(own)] == own[: len(other)]:
                also = f"`{name}`" if other == own else f"`{name}` and `{dotted(other)}` overlap, which"
                message = f"{also} is also set {where}"
                self.report("SD0403", there, message, "Keep one of the two.")
                return False
        taken[own] = f"on line {self.document.key_place(there).line}"
        return True

    # Ranges

    def _read_range(self, value: Mapping[str, Any], there: KeyPath, path: KeyPath) -> Range | None:
        trouble = _find_trouble(value)
        if trouble:
            word, message, fix = trouble
            self.report("SD0405", (*there, word) if word in value else there, message, fix, at_value=True)
            return None
        if self.is_grid:
            fix = "Give a list, or add `--sweep-runs N`, with `--sweep-search optuna` or without."
            self.report("SD0406", there, f"a grid cannot have a range: `{dotted(path)}`", fix)
            return None
        low, high, step = value["min"], value["max"], value.get("step")
        are_whole = all(isinstance(number, int) for number in (low, high, step or 0))
        is_whole = are_whole and not _takes_fractions(path)
        low, high = (low, high) if is_whole else (float(low), float(high))
        if step is not None:
            # Not one step too few where a quotient such as 0.3 / 0.1 is just below a whole number
            high = low + math.floor((high - low) / step * (1 + 1e-9)) * step
        place = self.document.value_place(there)
        log = bool(value.get("log"))
        return Range(path, self.document.key_place(there), place, low, high, log, step, is_whole)


def _is_range(value: Mapping[str, Any]) -> bool:
    return "min" in value or "max" in value


def _find_trouble(value: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What is wrong with a range: the word in it, the cause and the way out; None if nothing is."""
    for word, inner in value.items():
        if word not in _RANGE_WORDS:
            return word, f"`{word}` is no part of a range: it has {', '.join(_RANGE_WORDS)}", _RANGE_FORM
        if word == "log" and not isinstance(inner, bool):
            return word, "`log` is a switch: expected true or false", _RANGE_FORM
        if word != "log" and not _is_number(inner) and not (word == "step" and inner is None):
            return word, f"`{word}` of a range is a number", _RANGE_FORM
    for word in ("min", "max"):
        if word not in value:
            return word, f"a range needs `min` and `max`: `{word}` is missing", _RANGE_FORM
    return _find_trouble_between(value["min"], value["max"], value.get("step"), is_log=bool(value.get("log")))


def _find_trouble_between(
    low: float, high: float, step: float | None, *, is_log: bool
) -> tuple[str, str, str] | None:
    """What is wrong with the numbers of a range; as `_find_trouble`."""
    if low >= high:
        return (
            "max",
            "`max` of a range is above its `min`",
            "Swap them, or give one value in place of a range.",
        )
    if is_log and step is not None:
        return "step", "a range with `log: true` has no `step`", "Remove one of the two."
    if is_log and low <= 0:
        return "min", "`min` of a range with `log: true` is above 0", "Raise it, or remove `log`."
    if step is not None and not 0 < step <= high - low:
        return "step", "`step` of a range is above 0, and no longer than the range", _RANGE_FORM
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _takes_fractions(path: KeyPath) -> bool:
    """Whether the key at a path takes any number: then `{min: 0, max: 1}` means all those between."""
    info = find_key(path)
    return info is not None and _allows_float(info.field.annotation)


def _allows_float(annotation: Any) -> bool:
    return annotation is float or any(_allows_float(part) for part in get_args(annotation))


def _canonical(path: KeyPath) -> KeyPath:
    """The path under the key's new name."""
    rename = RENAMED.get(str(path[0]))
    return (*rename.new.split("."), *path[1:]) if rename else path


def _merge_equal(options: Sequence[tuple[Setting, ...]]) -> tuple[tuple[Setting, ...], ...]:
    """The options without those that stand there already."""
    distinct: dict[str, tuple[Setting, ...]] = {}
    for settings in options:
        text = to_json([[dotted(setting.path), setting.value] for setting in settings])
        distinct.setdefault(text, settings)
    return tuple(distinct.values())
