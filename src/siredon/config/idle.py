"""Keys that are set and have no effect, because what they belong to is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from siredon.config.fields import Section
from siredon.config.rule import Finding

#: How many keys a message names.
_SHOWN = 4


def keys_but(section: type[Section], *names: str) -> tuple[str, ...]:
    """Every key of a section except some: a key that is added to the section is among them."""
    return tuple(name for name in section.model_fields if name not in names)


def keys_set(section: Section, names: Iterable[str]) -> tuple[str, ...]:
    """Those keys that the file sets; a planned key set to its default, or to false, counts as unset."""
    return tuple(name for name in names if name in section.model_fields_set)


def keys_asking(section: Section, names: Iterable[str]) -> tuple[str, ...]:
    """Those keys that the file sets to something else than their default, and not to false or nothing."""
    values = ((name, vars(section)[name]) for name in keys_set(section, names))
    fields = type(section).model_fields
    return tuple(name for name, value in values if value and value != fields[name].default)


def find_idle_keys(section: Section, names: Iterable[str], needs: str, prefix: str = "") -> Iterator[Finding]:
    """A warning for the keys that are set although what they need is not.

    Args:
        section: Where the keys stand.
        names: The keys.
        needs: What they need, as it is written in the file: "`use_ray: true`".
        prefix: Path of a nested section, with its dot.
    """
    yield from find_useless_keys(section, names, f"without {needs}", f"Set {needs}", prefix)


def find_useless_keys(
    section: Section, names: Iterable[str], why: str, way_out: str = "", prefix: str = ""
) -> Iterator[Finding]:
    """A warning for the keys that are set and have no effect.

    Args:
        section: Where the keys stand.
        names: The keys.
        why: Why they have none; follows "has no effect".
        way_out: What else can be done than to remove them, as an instruction without its period.
        prefix: Path of a nested section, with its dot.
    """
    found = keys_set(section, names)
    if not found:
        return
    verb, keys = ("has", "the key") if len(found) == 1 else ("have", "the keys")
    shown = list_keys([prefix + name for name in found])
    fix = f"{way_out}, or remove {keys}." if way_out else f"Remove {keys}."
    yield Finding(prefix + found[0], f"{shown} {verb} no effect {why}", fix, "warning")


def list_keys(names: Sequence[str]) -> str:
    """Keys in a sentence: "`a`, `b` and `c`"."""
    shown = [f"`{name}`" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"{len(names) - _SHOWN} more")
    return " and ".join(([", ".join(shown[:-1])] if shown[:-1] else []) + shown[-1:])
