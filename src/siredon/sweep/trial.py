"""One set of values to train with; its name, and how it is written on a command line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from siredon.config.document import Source
from siredon.config.layers import Layer, Setting
from siredon.config.report import dotted
from siredon.redaction import redact_values

#: Longest name of a folder, of the 255 bytes that most file systems allow; paths have limits too.
_MAX_NAME = 80


@dataclass(frozen=True)
class Trial:
    """What one run changes of the configuration.

    Args:
        number: Its place in the sweep, from 1.
        settings: The values, in the order of the sweep file.
    """

    number: int
    settings: tuple[Setting, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {dotted(setting.path): setting.value for setting in self.settings}

    @property
    def folder_name(self) -> str:
        """`0003-learning_rate=0.001,lora_r=8`; of a name that is cut or changed, a hash is part."""
        exact = ",".join(show_values(redact_values(self.values)))
        # Without case: some file systems do not tell `A` from `a`
        name = re.sub(r"[^\w.+=,-]", "-", exact, flags=re.ASCII)
        if name != exact or len(name) > _MAX_NAME or name != name.lower():
            name = f"{name[: _MAX_NAME - 7]}-{hashlib.sha256(exact.encode()).hexdigest()[:6]}"
        return f"{self.number:04}-{name}" if name else f"{self.number:04}"

    def as_layer(self, source: Source) -> Layer:
        """The values as something to lay over a file.

        Args:
            source: The sweep file, where their places are.
        """
        return Layer(source, self.settings)


def show_values(values: dict[str, Any]) -> list[str]:
    """`key=value` for each value."""
    return [f"{key}={show_value(value)}" for key, value in values.items()]


def show_value(value: Any) -> str:
    """A value for people: text without quotes, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def to_words(settings: Iterable[Setting]) -> list[str]:
    """Settings as words of a command line, from which the same values are read again."""
    return [f"{dotted(setting.path)}={to_json(setting.value)}" for setting in settings]


def to_json(value: Any) -> str:
    """A value as JSON on one line, which is YAML too."""
    text = json.dumps(value, ensure_ascii=False)
    # YAML takes some characters for line breaks that JSON leaves as they are, and knows no surrogate pairs
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)
