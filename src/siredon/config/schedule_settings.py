"""What `lr_scheduler_kwargs` may hold, for each word of `lr_scheduler`; a test holds it against the parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from siredon.config.sections.optimizer import read_number

Kind = Literal["a number", "a whole number", "true or false"]


@dataclass(frozen=True)
class Setting:
    """What a setting may be.

    Args:
        kind: Its type, or the words that it chooses among.
        least: The lowest number.
        most: The highest.
    """

    kind: Kind | tuple[str, ...] = "a number"
    least: float = 0.0
    most: float = math.inf

    def find_wrong(self, value: object) -> str:
        """What it must be, if the value is not that; empty if it is.  None stands for unset."""
        if value is None:
            return ""
        if isinstance(self.kind, tuple):
            return "" if value in self.kind else f"one of {', '.join(f'`{word}`' for word in self.kind)}"
        if self.kind == "true or false":
            return "" if isinstance(value, bool) else self.kind
        number = read_number(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return self.kind
        if self.kind == "a whole number" and not isinstance(value, int):
            return self.kind
        return "" if self.least <= number <= self.most else self._range

    @property
    def _range(self) -> str:
        if self.most == math.inf:
            return f"{self.kind} from {self.least:g} upward"
        return f"{self.kind} from {self.least:g} to {self.most:g}"


_COUNT = Setting("a whole number")
_PART = Setting(most=1.0)
_FLAG = Setting("true or false")
_WAVES = Setting()
_FLOOR = {"min_lr": Setting(), "min_lr_rate": _PART}
_BENDS = ("linear", "cosine", "1-sqrt")

SETTINGS: dict[str, dict[str, Setting]] = {
    "constant": {},
    "constant_with_warmup": {},
    "linear": {},
    "cosine": {"num_cycles": _WAVES},
    "cosine_with_restarts": {"num_cycles": Setting("a whole number", least=1)},
    "cosine_with_min_lr": {**_FLOOR, "num_cycles": _WAVES},
    "cosine_warmup_with_min_lr": {**_FLOOR, "num_cycles": _WAVES, "warmup_lr_rate": _PART},
    "polynomial": {"lr_end": Setting(), "power": Setting()},
    "inverse_sqrt": {"timescale": Setting("a whole number", least=1)},
    "rex": _FLOOR,
    "warmup_stable_decay": {
        "num_decay_steps": _COUNT,
        "num_stable_steps": _COUNT,
        "warmup_type": Setting(_BENDS),
        "decay_type": Setting(_BENDS),
        "min_lr_ratio": _PART,
        "num_cycles": _WAVES,
    },
    "one_cycle": {
        "pct_start": _PART,
        "anneal_strategy": Setting(("cos", "linear")),
        "cycle_momentum": _FLAG,
        "base_momentum": _PART,
        "max_momentum": _PART,
        "div_factor": Setting(least=1.0),
        "final_div_factor": Setting(least=1.0),
        "three_phase": _FLAG,
    },
    "reduce_lr_on_plateau": {
        "mode": Setting(("min", "max")),
        "factor": Setting(most=0.999),
        "patience": _COUNT,
        "threshold": Setting(),
        "threshold_mode": Setting(("rel", "abs")),
        "cooldown": _COUNT,
        "min_lr": Setting(),
        "eps": Setting(),
    },
}
