"""The values of a file, key by key: old names translated, unknown and unbuilt keys reported, the rest dealt
to their sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from siredon.config.document import KeyPath
from siredon.config.fields import nested_section
from siredon.config.names import (
    FOREIGN,
    INERT,
    INERT_BUT_FALSE,
    REMOVED,
    RENAMED,
    RENAMED_VALUES,
    Rename,
    yaml_word,
)
from siredon.config.plugins import apply_plugins
from siredon.config.report import NOT_BUILT, Report, dotted
from siredon.config.schema import KeyInfo, key_homes, read_fields, section_types
from siredon.registry import find_clear, suggest


def deal_values(values: Mapping[str, Any], report: Report) -> dict[str, dict[str, Any]]:
    """Gives each key to its section, nested ones cleaned.  Null means unset, as in the reference.

    A key that is refused as not built is dealt too, so that the rules across keys see it.
    """
    dealt: dict[str, dict[str, Any]] = {home: {} for home in section_types()}
    for name, value, info, built in _known_values(apply_plugins(values, report), key_homes(), (), report):
        dealt[info.section][name] = _clean(value, info, (name,), report, built=built)
    return dealt


def literal_words(annotation: Any) -> tuple[str, ...]:
    """The strings that a (possibly optional, possibly united) Literal type allows."""
    if get_origin(annotation) is Literal:
        return tuple(word for word in get_args(annotation) if isinstance(word, str))
    return tuple(word for part in get_args(annotation) for word in literal_words(part))


#: Key and value -> why it is not built, and what comes nearest, where that is no question of time.
_UNBUILDABLE = {
    ("adapter", "mora"): (
        "`adapter: mora` is not offered: its authors change a copy of PEFT for it, and PEFT itself has no MoRA "
        "(the package `mora` on PyPI is another thing: do not install it)",
        "Use an adapter of PEFT whose change has a high rank, too: `randlora` or `hra`; or `miss`.",
    ),
}


def built_words(info: KeyInfo) -> tuple[str, ...]:
    """The words that a key allows and that work."""
    return tuple(word for word in literal_words(info.field.annotation) if word not in info.planned_values)


def allowed_text(info: KeyInfo) -> str:
    """The words that a key allows, for a fix; empty for a key without words."""
    words = ", ".join(f"`{word}`" for word in built_words(info))
    return (
        f"{words}, or true or false without quotes" if words and allows_bool(info.field.annotation) else words
    )


def _known_values(
    values: Mapping[str, Any],
    known: Mapping[str, KeyInfo],
    path: KeyPath,
    report: Report,
    *,
    built: bool = True,
) -> list[tuple[str, Any, KeyInfo, bool]]:
    """The values that are set and known, each with whether it works; everything else is reported.

    Where the mapping itself is refused as not built, what is in it is not refused again.
    """
    kept = []
    for name, value in _translate_names(values, known, path, report).items():
        if name not in known:
            where = f" in `{dotted(path)}`" if path else ""
            # A millisecond each: not for every key of a data file
            near = _find_near(name, known, path) if len(values) < 1000 else ""
            fix = near or "Remove it; `siredon config-schema` lists every key."
            report.error("SD0003", (*path, name), f"unknown key `{name}`{where}", fix)
            clear = find_clear(name, known) if near else None
            if clear and clear not in values:
                report.correct(name, clear, "key")
                report.expect((*path, clear))
        elif value is not None and not _asks_for_nothing(known[name], value):
            works = built and _check_built(known[name], value, (*path, name), report)
            if works or not isinstance(value, dict) or not known[name].plans_value(value):
                kept.append((name, value, known[name], works))
    return kept


def _find_near(name: str, known: Mapping[str, KeyInfo], path: KeyPath) -> str:
    """What was probably meant: a key of another tool, of another place, or a slip."""
    if FOREIGN.get(name) in known:
        return f"Write `{FOREIGN[name]}`."
    if path and name in key_homes():
        return f"`{name}` is a key of the top level: move it there."
    return suggest(name, known).strip()


def _clean(value: Any, info: KeyInfo, path: KeyPath, report: Report, *, built: bool) -> Any:
    """Goes through nested sections, at any depth."""
    section = nested_section(info.field.annotation)
    if section is None:
        return value
    if isinstance(value, list):
        return [_clean(item, info, (*path, index), report, built=built) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    known = read_fields(section, str(path[0]))
    return {
        name: _clean(inner, field, (*path, name), report, built=works)
        for name, inner, field, works in _known_values(value, known, path, report, built=built)
    }


def _translate_names(
    values: Mapping[str, Any], known: Mapping[str, KeyInfo], path: KeyPath, report: Report
) -> dict[str, Any]:
    """Replaces renamed keys, each with a warning; refuses removed ones.  A key that is known here is neither."""
    result: dict[str, Any] = {}
    old: dict[str, Any] = {}
    for name, value in values.items():
        rename = _find_rename(name, path)
        if name in known:
            result[name] = value
        elif name in REMOVED:
            if value:
                report.error("SD0010", (*path, name), f"`{name}` no longer exists", REMOVED[name])
        elif _scoped(name, path) in INERT:
            if value is not None and value is not (name in INERT_BUT_FALSE):
                message = f"`{name}` has no effect"
                report.add("SD0017", "warning", (*path, name), message, INERT[_scoped(name, path)])
        elif rename is None or _head(rename) not in known:
            result[name] = value
        elif value is not None:
            old[name] = value
    for name, value in old.items():
        rename = _find_rename(name, path)
        assert rename is not None
        _rename(result, value, (*path, name), rename, report, joins=_head(rename) not in values)
    return result if path else _translate_values(result, report)


def _find_rename(name: str, path: KeyPath) -> Rename | None:
    """What became of a name at a place: in one mapping, or everywhere."""
    return RENAMED.get(_scoped(name, path)) or RENAMED.get(name)


def _scoped(name: str, path: KeyPath) -> str:
    """The name as the tables have it: with the mapping that it stands in."""
    return f"{path[-1]}.{name}" if path else name


def _translate_values(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """Replaces old values that are keys of their own by now, each with a warning."""
    for (name, word), instead in RENAMED_VALUES.items():
        if values.get(name) != word:
            continue
        shown = " and ".join(f"`{new}: {yaml_word(value)}`" for new, value in instead.items())
        message = f"`{name}: {word}` is an old value: there is a key for it."
        report.add("SD0009", "warning", (name,), message, f"Write {shown}.", at_value=True)
        others = {new: value for new, value in instead.items() if new != name}
        if not any(new in values for new in others):
            lines = [
                yaml_word(instead[name]),
                *(f"{new}: {yaml_word(value)}" for new, value in others.items()),
            ]
            report.correct(word, "\n".join(lines), "value")
        for new, value in instead.items():
            if new == name or values.get(new) is None:
                report.move((new,), (name,))
                values[new] = value
    return values


def _head(rename: Rename) -> str:
    """The key of the same mapping that an old name moves to, or into."""
    return rename.new.partition(".")[0]


def _rename(
    result: dict[str, Any], value: Any, path: KeyPath, rename: Rename, report: Report, *, joins: bool
) -> None:
    """Puts a value under its new name; one that moves into a mapping `joins` it where the file has none yet."""
    name = path[-1]
    shown = rename.new if rename.value is None else f"{rename.new}: {rename.value}"
    if rename.value is not None:
        if not isinstance(value, bool):
            report.error("SD0005", path, f"`{name}` is a switch: expected true or false", f"Write `{shown}`.")
        if value is not True:
            return
        value = rename.value
    new, _, inner = rename.new.partition(".")
    given = result.get(new)
    taken = given.get(inner) if inner and isinstance(given, dict) else given
    if taken is not None:
        report.error(
            "SD0011",
            path,
            f"`{name}` is an old name of `{rename.new}`, which is set too",
            f"Remove `{name}`.",
        )
        return
    target = key_homes().get(new) if len(path) == 1 else None
    is_built = target is None or (target.status == "works" and not target.plans_value(value))
    fix = f"Write `{shown}`." if is_built else f"Its name is `{shown}` now, which is not built yet."
    report.add("SD0009", "warning", path, f"`{name}` is an old name. {rename.reason}", fix)
    if not inner:
        report.correct(str(name), shown, "key" if rename.value is None else "switch")
    elif joins:
        report.correct(str(name), rename.new, "join")
    report.move((*path[:-1], *rename.new.split(".")), path)
    if inner:
        result[new] = {**(given or {}), inner: value}
    else:
        result[new] = value


def _asks_for_nothing(info: KeyInfo, value: Any) -> bool:
    """Whether a key that is not built is set to what holds without it."""
    return info.status == "planned" and _is_default(info, value)


def _check_built(info: KeyInfo, value: Any, path: KeyPath, report: Report) -> bool:
    """Whether the key, and this value of it, work; reports it if not."""
    name = dotted(path)
    if info.status == "planned":
        report.error(
            NOT_BUILT,
            path,
            f"`{name}` is a key of Axolotl that Siredon knows but has not built yet",
            "Remove it, or run this file with Axolotl: Siredon ignores nothing.",
        )
        return False
    if isinstance(value, dict) and info.plans_value(value):
        message = f"`{name}` as a mapping is known but not built yet"
        report.error(NOT_BUILT, path, message, f"Give `{path[-1]}` a name: see docs/data.md.", at_value=True)
        return False
    if info.plans_value(value):
        allowed = allowed_text(info)
        fix = f"Use a value that works: {allowed}." if allowed else f"Remove `{path[-1]}`."
        message, fix = _UNBUILDABLE.get(
            (info.name, value), (f"`{name}: {value}` is known but not built yet", fix)
        )
        report.error(NOT_BUILT, path, message, fix, at_value=True)
        return False
    return True


def allows_bool(annotation: Any) -> bool:
    """Whether true and false are values of a type."""
    return annotation is bool or any(allows_bool(part) for part in get_args(annotation))


def _is_default(info: KeyInfo, value: Any) -> bool:
    """Whether a value leaves things as they are: the default itself, or "off" where the default is none."""
    default = info.field.get_default(call_default_factory=True)
    value = tuple(value) if isinstance(value, list) and isinstance(default, tuple) else value
    if isinstance(value, bool) != isinstance(default, bool) and default is not None:
        return False
    return bool(value == default) or (default is None and (value is False or value in ([], {}, "")))
