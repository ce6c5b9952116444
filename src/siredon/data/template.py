"""Which chat template a data set has, and what renders its rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS, TEMPLATES
from siredon.data.choose import choose_format
from siredon.data.render import Renderer, StopPolicy, build_renderer, find_bos
from siredon.data.types import Conversation, Message, RowError, Template
from siredon.errors import DataError
from siredon.registry import Shelf

OWN = "tokenizer_default"
FALLBACK = "tokenizer_default_fallback_"
#: A template that is written out, not named.
WRITTEN = "jinja"
_BEGIN = "{{- bos_token -}}"


def entry_renderer(
    entry: DatasetEntry, section: TokenizerSection, tokenizer: Any, shelf: Shelf = FORMATS
) -> Renderer:
    """What renders the rows of a data set: with its chat template, if its format needs one."""
    template = find_template(entry, section, tokenizer, shelf)
    _check_eot(section, tokenizer)
    renderer = build_renderer(tokenizer, template, section.chat_template_kwargs, section.eot_tokens)
    if template is None or not section.default_system_message:
        return renderer
    return _add_system(renderer, section.default_system_message, entry)


def _add_system(renderer: Renderer, text: str, entry: DatasetEntry) -> Renderer:
    """The renderer, with a system message for conversations that have none.

    Raises:
        DataError: The template refuses system messages, or leaves them out.
    """
    question = Message({"role": "user", "content": "?"}, "user", "?", False)
    changed = replace(renderer, system=text)
    try:
        shown = changed.render_prompt(Conversation((question,)))
        problem = "leaves it out" if text.strip() not in shown else ""
        if problem and shown != renderer.render_prompt(Conversation((question,))):
            problem = ""
    except RowError as error:
        problem = f"refuses it: {str(error).partition(': ')[2]}"
    if problem:
        raise DataError(
            f"{entry.path}: `default_system_message`: the chat template {problem}",
            "Remove the key, or name a `chat_template` that has a place for a system message.",
        )
    return changed


def stop_policy(entry: DatasetEntry, section: TokenizerSection) -> StopPolicy:
    """Which stop tokens of a data set are learned."""
    return StopPolicy(entry.train_on_eos, entry.train_on_eot, section.eot_tokens)


def find_template(
    entry: DatasetEntry, section: TokenizerSection, tokenizer: Any, shelf: Shelf = FORMATS
) -> str | None:
    """Jinja source of what renders a data set: the template of its format, or else its own; None where none does.

    The template of a format begins with the first token that the tokenizer sets before a text, if it sets one.

    Raises:
        DataError: As `resolve_template`.
    """
    part = choose_format(entry, shelf)
    if not part.uses_template:
        return None
    if part.template is None:
        return resolve_template(entry, section, tokenizer)
    source = part.template.source
    # The template that is saved says so too: whoever asks the model then does as it was trained
    return _BEGIN + source if find_bos(tokenizer) and "bos_token" not in source else source


def resolve_template(entry: DatasetEntry, section: TokenizerSection, tokenizer: Any) -> str:
    """Jinja source of the chat template of a data set.

    Raises:
        DataError: The tokenizer's own template is asked for, and it has none; or a file cannot be read.
    """
    for name, text in (
        (entry.chat_template, entry.chat_template_jinja),
        (section.chat_template, section.chat_template_jinja),
    ):
        if text and name in (None, WRITTEN):
            return _read_template(text, entry)
        if name is not None:
            return _find_template(name, entry, tokenizer)
    return _find_template(OWN, entry, tokenizer)


def set_template_(
    tokenizer: Any, entries: Iterable[DatasetEntry], section: TokenizerSection, shelf: Shelf = FORMATS
) -> None:
    """Gives a tokenizer the chat template of the first data set that has one; none leaves its own.

    Raises:
        DataError: The template cannot be found or read.
    """
    templates = (find_template(entry, section, tokenizer, shelf) for entry in entries)
    template = next((found for found in templates if found is not None), None)
    # What it holds besides, such as a template for tools, is kept with its own one only
    if template is not None and not (tokenizer.chat_template and tokenizer.get_chat_template() == template):
        tokenizer.chat_template = template


def _find_template(name: str, entry: DatasetEntry, tokenizer: Any) -> str:
    if name.startswith(FALLBACK):
        name = OWN if tokenizer.chat_template else name.removeprefix(FALLBACK)
    if name != OWN:
        part = TEMPLATES.load(name)
        assert isinstance(part, Template)
        return part.source
    if not tokenizer.chat_template:
        raise DataError(
            f"{entry.path}: the tokenizer has no chat template of its own",
            "Set `chat_template:` to the name of the model's family: `siredon explain chat_template`.",
        )
    return str(tokenizer.get_chat_template())


def _read_template(text: str, entry: DatasetEntry) -> str:
    """The text itself, or what stands in the file that it names."""
    if "{" in text or "\n" in text:
        return text
    try:
        return Path(os.path.expanduser(text)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{entry.path}: `chat_template_jinja: {text}` cannot be read: {error}",
            "Name a file, or write the template itself.",
        ) from None


def _check_eot(section: TokenizerSection, tokenizer: Any) -> None:
    """A token that ends a turn is one token."""
    for token in section.eot_tokens:
        ids = tokenizer(token, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise DataError(
                f"`eot_tokens`: {token!r} is {len(ids)} tokens, and a turn ends with one",
                "Name a token of the tokenizer, or add it with `special_tokens: {additional_special_tokens: [...]}`.",
            )
