"""Lengths of time, as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
_PLAIN = re.compile(r"\d+(\.\d+)?")
_SECONDS = (86_400, 3_600, 60, 1)


def read_duration(value: object) -> object:
    """Seconds of `90s`, `30m`, `2h`, `1d`, `11h30m`, `1:30:00`, `1-12:00:00` (a day and a half) or a number.

    Raises:
        ValueError: It is none of them.  `1:30` is not, as it may be minutes or hours.
    """
    if isinstance(value, str):
        text = value.replace(" ", "")
        if _PLAIN.fullmatch(text):
            return float(text)
        found = _UNITS.fullmatch(text) or _CLOCK.fullmatch(text)
        if found:
            return float(
                sum(int(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True))
            )
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(
        "expected a time, such as `11h30m`, `90s`, `1d`, `1:30:00` (hours first) or a number of seconds"
    )


#: A length of time, in seconds once it is read.
Duration = Annotated[
    float, BeforeValidator(read_duration, json_schema_input_type=str | float), Field(allow_inf_nan=False)
]
