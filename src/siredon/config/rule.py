"""What a cross-key rule is, and the page about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from siredon.config.diagnostics import Severity

#: The least that is a configuration; an example of a rule adds its own lines.
LEAST = {
    "base_model": "base_model: some/model\n",
    "learning_rate": "learning_rate: 1e-4\n",
    "datasets": "datasets:\n  - path: rows.jsonl\n    type: chat_template\n",
}


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    Args:
        key: The key to point at, dotted.
        message: What is wrong.
        fix: The way out, as an instruction.
        severity: An error stops the run, a warning does not.
        value: The key's value, where the value is to blame and not the key.
        replacement: What to write in place of that value, if it is the one clear way out.
    """

    key: str
    message: str
    fix: str
    severity: Severity = "error"
    value: str = ""
    replacement: str | None = None


@dataclass(frozen=True)
class Rule:
    """A rule across keys.

    Args:
        code: Stable code, `SD01xx`; a code has one meaning for good.
        check: Yields what is wrong.  Its parameters are the sections it looks at, by their names in `Config`;
            it runs when all of them are valid.  Its docstring is the page of the rule: the first line says what
            must hold, the rest why.
        wrong: Lines of YAML that break the rule.
        right: Lines like them that keep it.
        portable: Whether `wrong` breaks it on any machine, whatever is installed or on disk.
    """

    code: str
    check: Callable[..., Iterable[Finding]]
    wrong: str
    right: str
    portable: bool = True

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections that `check` takes, in order."""
        return tuple(inspect.signature(self.check).parameters)

    @property
    def title(self) -> str:
        """What must hold, in one line."""
        return inspect.cleandoc(self.check.__doc__ or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def reason(self) -> str:
        """Why; may be empty."""
        return inspect.cleandoc(self.check.__doc__ or "").partition("\n\n")[2]

    @property
    def keys(self) -> tuple[str, ...]:
        """The top-level keys that its examples are about."""
        found = dict.fromkeys(re.findall(r"^(\w+):", self.wrong + "\n" + self.right, re.MULTILINE))
        only_least = all(name in LEAST for name in found)
        return tuple(name for name in found if only_least or name not in ("base_model", "learning_rate"))


def complete_example(lines: str) -> str:
    """A whole configuration of the lines of an example; lines with `base_model` are one already."""
    lines = lines if lines.endswith("\n") else f"{lines}\n"
    names = set(re.findall(r"^(\w+):", lines, re.MULTILINE))
    if "base_model" in names:
        return lines
    return "".join(text for name, text in LEAST.items() if name not in names) + lines
