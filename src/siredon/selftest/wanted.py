"""What `siredon selftest` is asked for; no library is loaded to say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Wanted:
    """What `selftest` is asked for.

    Args:
        names: Rows; all of them where there are none.
        device: `cpu` or `gpu`.
        is_quick: Few cells only.
        as_json: JSON instead of a table.
    """

    names: tuple[str, ...] = ()
    device: Literal["cpu", "gpu"] = "cpu"
    is_quick: bool = False
    as_json: bool = False
