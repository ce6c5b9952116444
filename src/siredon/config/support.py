"""The page that says what works and what is known and not built yet: counted and listed from the schema and shelves."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from siredon.config.deal import built_words, literal_words
from siredon.config.entries import Entry, all_groups, find_entry
from siredon.config.pages import describe_integration, head, is_built, link_key, slug, table
from siredon.config.plugins import INTEGRATIONS
from siredon.config.shelves import (
    FORMATS,
    JUDGED_FORMATS,
    KNOWN_FORMATS,
    KNOWN_JUDGED_FORMATS,
    KNOWN_PREFERENCE_FORMATS,
    KNOWN_TEMPLATES,
    PREFERENCE_FORMATS,
    SCHEDULES,
    TEMPLATES,
    variants_of,
)
from siredon.registry import Shelf

_DESCRIBED = re.compile(r"[`)]: ")
_METHODS = Shelf("siredon.train.methods", "METHOD", "rl")
_OPTIMIZERS = Shelf("siredon.train.optimizers", "OPTIMIZER", "optimizer")


#: Values of `chat_template` that are no part of the shelf.
_OTHER_TEMPLATES = {
    "tokenizer_default": "what the model brings",
    "tokenizer_default_fallback_chatml": "what the model brings, or else `chatml`, or any other named one",
    "jinja": "the one in `chat_template_jinja`",
}


@dataclass(frozen=True)
class Area:
    """Something of which there are several, and which of them work.

    Args:
        title: What they are.
        key: The key that chooses among them; empty if each has its own.
        works: Those that work, as Markdown.
        unbuilt: Those that are known and not built yet.
    """

    title: str
    key: str
    works: tuple[str, ...]
    unbuilt: tuple[str, ...]


def all_areas() -> tuple[Area, ...]:
    """The areas in the order of the page."""
    return (
        _shelf_area("Data formats", "datasets.type", FORMATS, _known_formats()),
        _variants_area("Formats of pairs", PREFERENCE_FORMATS, KNOWN_PREFERENCE_FORMATS),
        _variants_area("Formats of judged answers", JUDGED_FORMATS, KNOWN_JUDGED_FORMATS),
        _shelf_area("Chat templates", "chat_template", TEMPLATES, KNOWN_TEMPLATES, _OTHER_TEMPLATES),
        _word_area("Adapters", "adapter"),
        _method_area(),
        _shelf_area("Optimizers", "optimizer", _OPTIMIZERS, _words_of("optimizer")),
        _shelf_area("Schedules of the learning rate", "lr_scheduler", SCHEDULES, ()),
        _word_area("Attention", "attn_implementation"),
        _key_area("Number formats", ("precision",)),
        _key_area("Weights with few bits", ("quantization",)),
        _key_area("Memory and speed", ("memory", "compile", "kernels", "liger", "loss")),
        _key_area("Several GPUs", ("distributed", "fsdp", "deepspeed", "expert_parallel", "ray")),
        _tracker_area(),
        _integration_area(),
    )


def support_page(commands: Mapping[str, str]) -> str:
    """What works, and what is known and not built yet.

    Args:
        commands: How each command is called -> what it does.
    """
    areas = all_areas()
    rows = [
        (f"[{area.title}](#{slug(area.title)})", str(len(area.works)), str(len(area.unbuilt)))
        for area in areas
    ]
    parts = [
        head("Support"),
        "What works, and what of Axolotl's is known and not built yet. What is not built is an error in a file "
        "([SD0004](rules.md#sd0004)), never passed over.",
        "## At a glance",
        table(("area", "work", "not built yet"), [*rows, _count_keys("all keys", lambda entry: True)]),
        *map(_show_area, areas),
        "## Keys by section",
        "Of a key that works, some values may not be built yet: they are listed with "
        "[each key](configuration.md).",
        _sections(),
        "## Commands",
        table(
            ("command", "what it does"), ((f"`siredon {name}`", about) for name, about in commands.items())
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _show_area(area: Area) -> str:
    parts = [f"## {area.title}"]
    if area.key:
        parts.append(f"<small>Chosen by {link_key(area.key)}.</small>")
    parts.append(_show_list("Works", area.works))
    if area.unbuilt:
        parts.append(_show_list("Not built yet", area.unbuilt))
    return "\n\n".join(parts)


def _show_list(word: str, items: Iterable[str]) -> str:
    items = tuple(items)
    if any(_DESCRIBED.search(item) for item in items):
        return f"{word}:\n\n" + "\n".join(f"- {item}" for item in items)
    return f"{word}: {', '.join(items) or 'none'}."


def _shelf_area(
    title: str, key: str, shelf: Shelf, known: Iterable[str], besides: Mapping[str, str] | None = None
) -> Area:
    """Parts of a shelf, each with what its file says of itself, and words that work without one."""
    names = shelf.names()
    works = [f"`{name}`: {_about(shelf, name)}" for name in names]
    others = besides or {}
    works = [f"`{name}`: {about}" for name, about in others.items()] + works
    unbuilt = tuple(f"`{name}`" for name in known if name not in (*names, *others))
    return Area(title, key, tuple(works), unbuilt)


def _known_formats() -> tuple[str, ...]:
    """Those of the reference but for words that name formats of another shelf alone."""
    others = (*PREFERENCE_FORMATS.names(), *JUDGED_FORMATS.names())
    return tuple(name for name in KNOWN_FORMATS if name not in others or name in FORMATS.names())


def _variants_area(title: str, shelf: Shelf, known: Iterable[str]) -> Area:
    """The formats of a shelf, each with its variants."""
    area = _shelf_area(title, "datasets.type", shelf, known)
    variants = (", ".join(f"`.{word}`" for word in variants_of(shelf, name)) for name in shelf.names())
    works = (f"{item} ({words})" if words else item for item, words in zip(area.works, variants, strict=True))
    return replace(area, works=tuple(works))


def _about(shelf: Shelf, name: str) -> str:
    """The first line of a part's own file, which is not imported for it."""
    spec = find_spec(f"{shelf.package}.{name}")
    if spec is None or spec.origin is None:
        return "from an installed package"
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    first = " ".join(doc.partition("\n\n")[0].split())
    return first.partition("`: ")[2].rstrip(".") or first


def _words_of(key: str) -> tuple[str, ...]:
    """Every word of a key, built or not."""
    entry = find_entry(key)
    assert entry is not None
    return literal_words(entry.info.field.annotation)


def _word_area(title: str, key: str) -> Area:
    """The words of one key."""
    entry = find_entry(key)
    assert entry is not None
    works = built_words(entry.info) if entry.works else ()
    return Area(title, key, tuple(f"`{word}`" for word in works), entry.unbuilt)


def _method_area() -> Area:
    """The words of `rl`, and the keys that switch on a method of their own."""
    entry = find_entry("rl")
    assert entry is not None
    names, words = _METHODS.names(), literal_words(entry.info.field.annotation)
    how = {name: f"`rl: {name}`" if name in words else f"without {link_key('rl')}" for name in names}
    works = [f"{how[name]}: {_about(_METHODS, name)}" for name in names]
    unbuilt = [f"`rl: {word}`" for word in words if word not in names]
    switches = [
        find_entry(name) for name in ("reward_model", "process_reward_model", "kd_trainer", "diffusion")
    ]
    for switch in switches:
        assert switch is not None
        (works if switch.works else unbuilt).append(link_key(switch.name))
    return Area("Methods", "rl", tuple(works), tuple(unbuilt))


def _key_area(title: str, sections: tuple[str, ...]) -> Area:
    """The keys of some sections, without those inside them, and values that are not built."""
    entries = [
        entry
        for group in all_groups()
        if group.section in sections and not group.owners
        for entry in group.entries
    ]
    return _area_of(title, entries)


def _tracker_area() -> Area:
    """The switches of what a run can report to."""
    sections = ("logging", "wandb", "mlflow", "comet", "trackio", "swanlab", "metrics")
    entries = [entry for group in all_groups() if group.section in sections for entry in group.entries]
    return _area_of("Trackers", [entry for entry in entries if entry.name.startswith("use_")])


def _area_of(title: str, entries: Iterable[Entry]) -> Area:
    entries = tuple(entries)
    works = tuple(link_key(entry.name) for entry in entries if entry.works)
    values = [
        f"`{entry.name}: {word.strip('`')}`" for entry in entries if entry.works for word in entry.unbuilt
    ]
    keys = [link_key(entry.name) for entry in entries if not entry.works]
    return Area(title, "", works, (*values, *keys))


def _integration_area() -> Area:
    """Those that switch something on; the others work as far as their keys do."""
    works: list[str] = []
    unbuilt: list[str] = []
    for name, integration in INTEGRATIONS.items():
        if integration.sets or integration.part:
            text = f"`{name}`: {describe_integration(integration)}"
            (works if is_built(integration) else unbuilt).append(text)
    return Area("Integrations of Axolotl", "plugins", tuple(works), tuple(unbuilt))


def _sections() -> str:
    def count(section: str) -> tuple[str, str, str]:
        return _count_keys(f"`{section}`", lambda entry: entry.info.section == section)

    sections = dict.fromkeys(group.section for group in all_groups())
    return table(("section", "keys that work", "not built yet"), map(count, sections))


def _count_keys(title: str, counts: Callable[[Entry], bool]) -> tuple[str, str, str]:
    entries = [entry for group in all_groups() for entry in group.entries if counts(entry)]
    works = sum(entry.works for entry in entries)
    return title, str(works), str(len(entries) - works)
