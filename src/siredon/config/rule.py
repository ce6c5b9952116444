"""What a cross-key rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from siredon.config.diagnostics import Severity


@dataclass(frozen=True)
class Finding:
    """A broken rule: the key to point at, what is wrong, and the way out."""

    key: str
    message: str
    fix: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Rule:
    """A rule across keys.

    Args:
        code: Stable code, `SD01xx`.
        sections: The sections that `check` takes, in order; it runs when all of them are valid.
        check: Yields what is wrong.
    """

    code: str
    sections: tuple[str, ...]
    check: Callable[..., Iterable[Finding]]
