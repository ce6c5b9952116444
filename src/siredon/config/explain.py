"""`explain`: the page of a code or of a key, for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from siredon.config.codes import (
    EXAMPLE,
    Page,
    all_pages,
    find_page,
    report_wrong,
    severities_of,
    touched_keys,
    words_of,
)
from siredon.config.diagnostics import show_text
from siredon.config.entries import Entry, all_names, find_entry
from siredon.config.names import INERT, REMOVED, RENAMED, yaml_word
from siredon.registry import suggest

_WIDTH = 100
_CODE = re.compile(r"(?i)(?:sd)?(\d{4})")
_OLD = {**dict.fromkeys(RENAMED), **REMOVED, **INERT}


def explain(word: str) -> str | None:
    """What is known of a code (`SD0103`, `sd0103`, `0103`), a key (`trl.beta`), or an old name; None for neither."""
    code = _CODE.fullmatch(word.strip())
    if code:
        page = find_page(f"SD{code[1]}")
        return _explain_code(page) if page else None
    # `--lora-r` and `lora-r` are how the command line has it
    name = word.strip().lstrip("-").replace("-", "_")
    entry = find_entry(name)
    return _explain_key(entry) if entry else _explain_old(name)


def suggest_word(word: str) -> str:
    """The nearest code or key."""
    names = [page.code for page in all_pages()] if _CODE.fullmatch(word) else [*all_names(), *_OLD]
    return suggest(word.upper() if _CODE.fullmatch(word) else word, names).strip()


def _explain_code(page: Page) -> str:
    found, beside = report_wrong(page)
    severity = " or ".join(severities_of(page, found))
    parts = [_wrap(f"{page.code}{f' ({severity})' if severity else ''}: {page.title}"), _wrap(page.reason)]
    if page.wrong:
        parts.append(_example("Wrong", page, page.wrong))
        parts.append(show_text(found))
        if not page.portable:
            parts.append("Whether this is reported depends on what is installed or on disk.")
        if beside:
            parts.append(f"Reported beside it: {', '.join(beside)}.")
    if page.right:
        parts.append(_example("Right", page, page.right))
    keys = touched_keys(page)
    if keys:
        parts.append(_wrap(f"Keys: {_list(keys)}."))
    return _join(parts)


def _example(word: str, page: Page, lines: str) -> str:
    words = words_of(page)
    how = f", with `siredon check {EXAMPLE} {' '.join(words)}`" if words else ""
    return f"{word}{how}:\n\n{textwrap.indent(lines.rstrip(), '    ')}"


def _explain_key(entry: Entry) -> str:
    about = [("type", entry.kind)]
    if not entry.explains_default:
        about.append(("default", entry.default.strip("`")))
    works = (
        f"works, since {entry.info.since}"
        if entry.works
        else "not built yet: an error where it asks for anything"
    )
    about.append(("status", works))
    if entry.unbuilt:
        about.append(("not built yet", ", ".join(entry.unbuilt)))
    old = [name for name, rename in RENAMED.items() if rename.new == entry.name]
    if old:
        about.append(("old names", _list(old)))
    if entry.codes:
        about.append(("rules", ", ".join(entry.codes)))
    width = max(len(name) for name, _ in about)
    lines = [
        textwrap.fill(f"  {name:<{width}}  {text}", _WIDTH, subsequent_indent=" " * (width + 4))
        for name, text in about
    ]
    return _join([_wrap(f"{entry.name}: {entry.meaning}"), "\n".join(lines)])


def _explain_old(name: str) -> str | None:
    if name in RENAMED:
        rename = RENAMED[name]
        shown = rename.new if rename.value is None else f"{rename.new}: {yaml_word(rename.value)}"
        was = name if rename.value is None else f"{name}: true"
        new = find_entry(rename.new)
        head = f"{was} is an old name of {shown}. {rename.reason}"
        return _join([_wrap(head), "It works, with a warning (SD0009).", _explain_key(new) if new else ""])
    if name in REMOVED:
        return _wrap(f"{name} no longer exists (SD0010). {REMOVED[name]}")
    if name in INERT:
        return _wrap(f"{name} has no effect (SD0017). {INERT[name]}")
    return None


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)
