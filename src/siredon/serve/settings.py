"""How an answer may be sampled: the settings by their names, with their ranges, for `/set` and the options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from siredon.errors import DataError
from siredon.registry import suggest
from siredon.serve.sampling import Sampling


@dataclass(frozen=True)
class Setting:
    """One number.

    Args:
        low: The smallest value.
        high: The largest one; None for no limit.
        about: What it does, in a line.
        is_whole: A whole number.
    """

    low: float
    high: float | None
    about: str
    is_whole: bool = False

    @property
    def range(self) -> str:
        """Its range in words."""
        kind = "a whole number" if self.is_whole else "a number"
        low = f"{self.low:g}"
        return f"{kind} from {low} to {self.high:g}" if self.high is not None else f"{kind}, {low} or more"

    def read(self, text: str) -> int | float | None:
        """The value that a text names; None if it is none, or out of the range."""
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            return None
        if not value >= self.low or (self.high is not None and value > self.high):  # NaN is neither
            return None
        return None if value == float("inf") else value


#: Name of a setting -> what it takes.  `seed` and `stop` may also be off.
SETTINGS: Mapping[str, Setting] = {
    "temperature": Setting(0, 100, "Divisor of the logits; 0 always takes the likeliest token."),
    "top_p": Setting(
        0, 1, "Sample among the likeliest tokens that together have this probability; 1 is all."
    ),
    "top_k": Setting(0, None, "Sample among so many tokens; 0 is all.", is_whole=True),
    "min_p": Setting(0, 1, "Sample tokens with at least this part of the best one's probability; 0 is all."),
    "repetition_penalty": Setting(
        0.01, 100, "Divisor of the logits of tokens that are there already; 1 is none."
    ),
    "max_new_tokens": Setting(1, None, "Longest answer, in tokens.", is_whole=True),
    "seed": Setting(0, 2**63 - 1, "Of the random numbers, set anew for each answer.", is_whole=True),
}
_OFF = "off"
STOP = "stop"
STOP_ABOUT = "Text before which an answer ends."


def change_setting(sampling: Sampling, name: str, text: str) -> Sampling:
    """The sampling with one setting changed.

    Args:
        sampling: As it is.
        name: The setting.
        text: Its value, as a user types it; `off` for `seed` and `stop`.  A stop text in quotes is read as JSON.

    Raises:
        DataError: No such setting, or a value out of its range.
    """
    if name == STOP:
        return replace(sampling, stop=() if text == _OFF else (_read_text(text),))
    if name not in SETTINGS:
        raise DataError(
            f"`{name}` is no setting",
            f"{suggest(name, (*SETTINGS, STOP))}There are: {', '.join((*SETTINGS, STOP))}.",
        )
    if name == "seed" and text == _OFF:
        return replace(sampling, seed=None)
    setting = SETTINGS[name]
    value = setting.read(text)
    if value is None:
        off = ", or `off`" if name == "seed" else ""
        raise DataError(f"`{name}` cannot be `{text}`", f"Give {setting.range}{off}.")
    changed: dict[str, Any] = {name: value}
    return replace(sampling, **changed)


def describe_settings(sampling: Sampling) -> list[tuple[str, str]]:
    """Each setting and its value, as `/set` takes it."""
    values = vars(sampling)
    shown = [
        (name, _OFF if values[name] is None else f"{values[name]:g}") for name in SETTINGS if name != "seed"
    ]
    shown.append(("seed", _OFF if sampling.seed is None else str(sampling.seed)))
    shown.append((STOP, " ".join(json.dumps(text, ensure_ascii=False) for text in sampling.stop) or _OFF))
    return [(name, str(values[name]) if name == "max_new_tokens" else text) for name, text in shown]


def _read_text(text: str) -> str:
    if text.startswith('"'):
        try:
            read = json.loads(text)
        except ValueError:
            read = None
        if not isinstance(read, str) or not read:
            raise DataError(
                f"`stop` cannot be `{text}`", 'Give a text, such as `User:`, or in quotes: `"\\n"`.'
            )
        return read
    if not text:
        raise DataError("`stop` needs a text", "Give one, such as `User:`; or `off`.")
    return text
