"""How much a chat template may do: a template comes with a model, and may be a stranger's.

Jinja's sandbox bounds what a template reaches, not what it costs.  A `Budget` counts what one rendering does, in units
that do not depend on the machine: steps, and characters that are made.  Whatever could be larger than all that it is
made of is estimated before it is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from typing import Any

#: Strings up to this length are made in no time.
_SHORT = 4096
#: Steps from one look at the clock to the next.
_LOOK_EVERY = 5000


class LimitReached(Exception):  # noqa: N818 - no error of the template's: it may not be taken for one
    """A template did more than it may; the text says which limit."""


@dataclass(frozen=True)
class Limits:
    """What one rendering may do.

    Args:
        source: Characters of the template.
        steps: Nodes of the template's tree that run, each loop's as often as it turns.
        value: Characters of one value, and of the text that comes out.
        total: Characters of all values that are made.
        nodes: Members of one value, and of their members.
        depth: Containers in containers.
        bits: Binary digits of a whole number.
        seconds: For what no other limit foresees.
    """

    source: int = 250_000
    steps: int = 20_000_000
    value: int = 2**25
    total: int = 500_000_000
    nodes: int = 1_000_000
    depth: int = 100
    bits: int = 4096
    seconds: float = 60.0


class Budget:
    """What is left of the limits, in one rendering."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.reset()

    def reset(self) -> None:
        """Before each rendering."""
        self._steps = self.limits.steps
        self._text = self.limits.total
        self._look_at = self._steps - _LOOK_EVERY
        self._deadline = time.monotonic() + self.limits.seconds

    def tick(self, steps: int) -> bool:
        """Counts steps; always true."""
        self._steps -= steps
        if self._steps < self._look_at:
            self._look()
        return True

    def _look(self) -> None:
        if self._steps < 0:
            raise LimitReached(f"takes more than {self.limits.steps:,} steps")
        if time.monotonic() > self._deadline:
            raise LimitReached(f"takes more than {self.limits.seconds:g} seconds")
        self._look_at = self._steps - _LOOK_EVERY

    def made(self, value: Any) -> Any:
        """Counts a value that was made; returns it."""
        # Called for all that a template writes: the usual case costs one call
        if type(value) is str:
            size = len(value)
            self._text -= size
            if size > _SHORT or self._text < 0:
                self._check_text(size)
        elif isinstance(value, int):
            self.check_bits(value.bit_length())
        elif isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)):
            size = self.size_of(value)
            self._text -= size
            self._check_text(size)
        return value

    def copied(self, value: Any) -> Any:
        """Counts a part of a value: a list of what is there already is as long as it is."""
        if isinstance(value, (list, tuple)):
            self._text -= len(value)
            self._check_text(len(value))
            return value
        return self.made(value)

    def _check_text(self, size: int) -> None:
        self.check_size(size)
        self.tick(size >> 6)
        if self._text < 0:
            raise LimitReached(f"makes more than {self.limits.total:,} characters in all")

    def check_size(self, size: int) -> None:
        """Raises where a value would have more characters than one may."""
        if size > self.limits.value:
            raise LimitReached(f"makes a value of more than {self.limits.value:,} characters")

    def check_bits(self, bits: int) -> None:
        """Raises where a whole number would be too long."""
        if bits > self.limits.bits:
            raise LimitReached(f"makes a number of more than {self.limits.bits:,} bits")

    def size_of(self, value: Any) -> int:
        """Characters of a text, or of all that is in a container."""
        return len(value) if isinstance(value, (str, bytes)) else self.weigh(value)

    def weigh(self, value: Any) -> int:
        """Characters of all that is in a container, one more for each member: what stands twice counts twice."""
        size = count = depth = 0
        level = [value]
        while level:
            depth += 1
            if depth > self.limits.depth:
                raise LimitReached(f"puts values into each other more than {self.limits.depth} deep")
            following: list[Any] = []
            for item in level:
                if isinstance(item, (str, bytes)):
                    size += len(item)
                else:
                    following += _members_of(item)
                    self._check_count(count + len(level) + len(following))
            count += len(level)
            level = following
        self.check_size(size)
        self.tick(count)
        return size + count

    def _check_count(self, count: int) -> None:
        if count > self.limits.nodes:
            raise LimitReached(f"makes a value with more than {self.limits.nodes:,} members")

    def check_repeat(self, left: Any, right: Any) -> None:
        """Before `left * right`."""
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            if isinstance(left, int) and isinstance(right, int):
                self.check_bits(left.bit_length() + right.bit_length() - 1)
            return
        value, times = (left, right) if isinstance(right, int) else (right, left)
        if isinstance(times, int):
            size = self.size_of(value) * max(times, 0)
            self.check_size(size)
            if not isinstance(value, (str, bytes)):
                self._check_count(size)

    def check_power(self, base: Any, exponent: Any) -> None:
        """Before `base ** exponent`."""
        if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
            self.check_bits((abs(base).bit_length()) * exponent)

    def check_format(self, pattern: str, values: Sequence[Any] | Mapping[str, Any], mark: str) -> None:
        """Before values are put into a pattern, at each `mark`: the widths of the fields are numbers in it."""
        widths = [int(digits[:9]) for digits in re.findall(r"\d+", pattern)]
        members = list(values.values()) if isinstance(values, Mapping) else list(values)
        widths += [abs(value) for value in members if isinstance(value, int)]
        size = self.size_of(members) + sum(isinstance(value, int) for value in members) * self.limits.bits
        self.check_size(len(pattern) + pattern.count(mark) * (max(widths, default=0) + size))

    def check_factor(self, value: Any, arguments: Sequence[Any]) -> None:
        """Before a function makes of each character at most as many as its numbers and texts say together."""
        factor = 1
        for argument in arguments:
            factor += abs(argument) if isinstance(argument, (int, float)) else self.size_of(argument)  # type: ignore[assignment]
        self.check_size(int((self.size_of(value) + 1) * min(factor, 2**60)))

    def check_replace(self, value: str, old: str, new: str) -> None:
        """Before `value.replace(old, new)`."""
        if len(new) > len(old):
            self.check_size(len(value) + value.count(old) * (len(new) - len(old)))

    def check_join(self, separator: str, values: Sequence[Any]) -> None:
        """Before `separator.join(values)`."""
        self.check_size(self.size_of(values) + len(separator) * len(values))


def _members_of(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset, KeysView, ValuesView, ItemsView)):
        return list(value)
    return ()
