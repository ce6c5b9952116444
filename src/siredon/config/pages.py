"""The pages of the reference as Markdown: every key, and every code.  Made of the schema and the rules alone."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from siredon.config.codes import (
    EXAMPLE,
    Code,
    Page,
    all_pages,
    report_wrong,
    severities_of,
    touched_keys,
    words_of,
)
from siredon.config.diagnostics import show_text
from siredon.config.entries import Entry, Group, all_groups, find_entry
from siredon.config.names import INERT, REMOVED, RENAMED, RENAMED_VALUES, yaml_word
from siredon.config.plugins import INTEGRATIONS, Integration
from siredon.config.report import NOT_BUILT
from siredon.config.rule import LEAST, Rule
from siredon.config.schema import key_homes


def head(title: str) -> str:
    """The beginning of a generated page: where it comes from, for who edits it and for who reads it."""
    return (
        "<!-- Generated from the source by `make docs`, or `python -m siredon.cli.pages docs/reference`. "
        "Changes made here are lost. -->\n\n"
        f"# {title}\n\n"
        "<small>This page is generated from the source: `make docs` writes it, and a test holds it to be current."
        "</small>"
    )


def slug(heading: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def link_key(name: str, page: str = "configuration.md") -> str:
    """A link to a key."""
    entry = find_entry(name)
    assert entry is not None, name
    return f"[`{name}`]({page}#{slug(entry.name)})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# Keys


def configuration_page() -> str:
    """Every key, by section."""
    groups = all_groups()
    entries = [entry for group in groups for entry in group.entries]
    works = sum(entry.works for entry in entries)
    parts = [
        head("Configuration reference"),
        f"All {len(entries)} keys: {works} that work, and {len(entries) - works} of Axolotl's that are known and not "
        "built yet. One that is not built may stand in a file where it asks for nothing, and is an error "
        f"([{NOT_BUILT}](rules.md#{NOT_BUILT.lower()})) otherwise. A dot leads into a mapping, or into the entries "
        "of a list: `datasets.type` is the key `type` of an entry of `datasets`. How a file is read as a whole: "
        "[configuration](../configuration.md). On a terminal, `siredon explain KEY` shows the same.",
        *(_show_group(group) for group in groups),
        *_old_names(),
        _integrations(),
    ]
    return "\n\n".join(parts) + "\n"


def _show_group(group: Group) -> str:
    title, _, rest = re.sub(r"[:;] ", "\0", group.about, count=1).partition("\0")
    works = [entry for entry in group.entries if entry.works]
    unbuilt = [entry for entry in group.entries if not entry.works]
    place = f"Inside {_join(group.owners)}" if group.owners else f"Section `{group.section}`"
    parts = [
        f"{'###' if group.owners else '##'} {title.rstrip('.')}",
        f"{rest[:1].upper()}{rest[1:]} <small>{place}.</small>" if rest else f"<small>{place}.</small>",
        *map(_show_entry, works),
    ]
    if unbuilt:
        rows = ((_show_unbuilt(entry), entry.meaning, _show_codes(entry)) for entry in unbuilt)
        parts.append(table(("not built yet", "meaning", "rules"), rows))
    return "\n\n".join(parts)


def _show_entry(entry: Entry) -> str:
    default = entry.default
    about = [entry.kind]
    if not entry.explains_default:
        about.append(default if default in ("required", "unset", "empty") else f"default {default}")
    about.append(f"since {entry.info.since}")
    if entry.codes:
        about.append(_show_codes(entry))
    lines = [f"{entry.meaning}<br>", f"<small>{' · '.join(about)}</small>"]
    if entry.unbuilt:
        lines[-1] += "<br>"
        lines.append(f"<small>Not built yet: {', '.join(entry.unbuilt)}.</small>")
    return f"#### `{entry.name}`\n\n" + "\n".join(lines)


def _show_unbuilt(entry: Entry) -> str:
    default = entry.default if entry.default in ("required", "unset", "empty") else f"default {entry.default}"
    return f'<a id="{slug(entry.name)}"></a>`{entry.name}`<br><small>{entry.kind}; {default}</small>'


def _show_codes(entry: Entry) -> str:
    return " ".join(f"[{code}](rules.md#{code.lower()})" for code in entry.codes)


def _old_names() -> Iterator[str]:
    renamed = [
        (
            f"`{old}`" if new.value is None else f"`{old}: true`",
            f"`{new.new}`" if new.value is None else f"`{new.new}: {yaml_word(new.value)}`",
            new.reason,
        )
        for old, new in RENAMED.items()
    ]
    renamed += [
        (
            f"`{name}: {word}`",
            " and ".join(f"`{new}: {yaml_word(value)}`" for new, value in instead.items()),
            "",
        )
        for (name, word), instead in RENAMED_VALUES.items()
    ]
    yield "## Old names"
    yield "They work as the new ones, with a warning ([SD0009](rules.md#sd0009)); `siredon check --fix` rewrites them."
    yield table(("old name", "write", "why"), renamed)
    yield "## Keys that no longer exist"
    yield "They are errors ([SD0010](rules.md#sd0010))."
    yield table(("old key", "what to do"), ((f"`{name}`", text) for name, text in REMOVED.items()))
    yield "## Keys without effect"
    yield "They are passed over, with a warning ([SD0017](rules.md#sd0017))."
    yield table(("old key", "what to do"), ((f"`{name}`", text) for name, text in INERT.items()))


def _integrations() -> str:
    rows = (
        (f"`{name}`", describe_integration(integration, "")) for name, integration in INTEGRATIONS.items()
    )
    return (
        "## Integrations of Axolotl\n\n"
        f"What it means to name one of them in {link_key('plugins', '')}, as `axolotl.integrations.` and its name.\n\n"
        + table(("integration", "meaning"), rows)
    )


def describe_integration(integration: Integration, page: str = "configuration.md") -> str:
    """What naming an integration does, with links to its keys on a page."""
    if integration.sets:
        return "; ".join(
            f"{link_key(name, page)} is `{yaml_word(value)}` where the file does not set it"
            for name, value in integration.sets.items()
        )
    if integration.part:
        return f"the part of {link_key(integration.part, page)} is on"
    return "nothing: its keys say themselves what is on"


def is_built(integration: Integration) -> bool:
    """Whether what naming an integration does is built."""
    names = [*integration.sets, integration.part] if integration.part else [*integration.sets]
    return all(key_homes()[name].status == "works" for name in names)


def _join(names: Iterable[str]) -> str:
    shown = [f"`{name}:`" for name in names]
    return " and ".join(([", ".join(shown[:-1])] if shown[:-1] else []) + shown[-1:])


# Codes


def rules_page() -> str:
    """Every code, by topic."""
    topics: dict[str, list[Page]] = defaultdict(list)
    for page in all_pages():
        topics[_topic(page)].append(page)
    least = "".join(LEAST.values())
    parts = [
        head("Rules"),
        f"What each of the {len(all_pages())} codes means that `siredon check` and every other command report. An "
        "error stops a run, a warning does not. `siredon explain CODE` shows the same on a terminal. How a report "
        "looks, and how to have problems corrected: [errors](../errors.md).",
        "An example is a part of a file: unless it has them itself, these lines are in one that it "
        f"[includes](configuration.md#include).\n\n```yaml\n{least}```",
        "Many rules are about keys that are not built yet. They are told beside that "
        f"([{NOT_BUILT}](#{NOT_BUILT.lower()})), so that a file for Axolotl can be checked whole.",
        _index(),
        *(f"## {topic}\n\n" + "\n\n".join(map(_show_page, pages)) for topic, pages in topics.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _topic(page: Page) -> str:
    """What the file of a rule is about."""
    if isinstance(page, Code):
        return page.topic
    assert isinstance(page, Rule)
    about = sys.modules[page.check.__module__].__doc__ or ""
    return " ".join(about.partition("\n\n")[0].split()).rstrip(".")


def _index() -> str:
    rows = ((f"[{page.code}](#{page.code.lower()})", page.title) for page in all_pages())
    return "## All codes\n\n" + table(("code", "what must hold"), rows)


def _show_page(page: Page) -> str:
    found, beside = report_wrong(page)
    severities = " or ".join(severities_of(page, found))
    parts = [f"### {page.code}", f"**{page.title}**{f' <small>{severities}</small>' if severities else ''}"]
    if page.reason:
        parts.append(page.reason)
    if page.wrong:
        parts += [_caption("Wrong", page), fence(page.wrong, 'yaml linenums="1"')]
        if found:
            parts.append(fence(show_text(found)))
        if not page.portable:
            parts.append("<small>Whether this is reported depends on what is installed or on disk.</small>")
        if beside:
            parts.append(f"<small>Reported beside it: {' '.join(map(_link_code, beside))}.</small>")
    if page.right:
        parts += [_caption("Right", page), fence(page.right, "yaml")]
    keys = touched_keys(page)
    if keys:
        parts.append(f"<small>Keys: {', '.join(map(link_key, keys))}</small>")
    return "\n\n".join(parts)


def _caption(word: str, page: Page) -> str:
    words = words_of(page)
    return f"{word}, with `siredon check {EXAMPLE} {' '.join(words)}`:" if words else f"{word}:"


def _link_code(code: str) -> str:
    return f"[{code}](#{code.lower()})"


def fence(text: str, info: str = "") -> str:
    """A block of code."""
    return f"```{info}\n{text.rstrip()}\n```"
