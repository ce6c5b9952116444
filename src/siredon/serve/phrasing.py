"""How a conversation is put to a model: in the words of its training, with its thinking switched on or off."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siredon.config.schema import Config
from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS
from siredon.data.dialogue import build_dialogue
from siredon.data.messages import THINK_TAGS
from siredon.data.template import find_template
from siredon.errors import DataError
from siredon.registry import Shelf

#: Variables by which chat templates let a model think or not.
_SWITCHES = ("enable_thinking", "thinking")
_OPEN_THOUGHT = re.compile(rf"(?:{'|'.join(re.escape(opening) for opening, _ in THINK_TAGS)})\s*$")


@dataclass(frozen=True)
class Phrasing:
    """How messages become a prompt.

    Args:
        entry: The data set whose format and chat template are used.
        section: Tokenizer.
        tokenizer: The same, loaded.
        switch: Variable of the chat template that switches thinking; empty if it has none.
        keeps_turns: Whether a conversation can go on; else each question is asked by itself.
        shelf: Where the format is.
    """

    entry: DatasetEntry
    section: TokenizerSection
    tokenizer: Any
    switch: str
    keeps_turns: bool
    shelf: Shelf = FORMATS
    _built: dict[bool | None, Callable[[Sequence[Any]], str]] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, Any]], thinking: bool | None = None) -> str:
        """The text after which the model answers.

        Args:
            messages: What was said, the newest question last.
            thinking: Whether the model is to think; None leaves that to the template.

        Raises:
            RowError: They are no messages, or the template refuses them.
        """
        if thinking not in self._built:
            self._built[thinking] = build_dialogue(
                self.entry, self._section(thinking), self.tokenizer, self.shelf
            )
        asked = messages if self.keeps_turns else messages[-1:]
        if self.entry.split_thinking:
            asked = [split_thought(message) for message in asked]
        return self._built[thinking](asked)

    def render_question(self, text: str) -> str:
        """The text in which one question of a user is asked by itself."""
        return self.render([{"role": "user", "content": text}])

    def check_system(self) -> None:
        """Refuses a system message where a format has no place for one.

        Raises:
            DataError: The format asks one question at a time.
        """
        if not self.keeps_turns:
            raise DataError(
                f"a system message has no place in `type: {self.entry.type}`",
                "Train on a data set with messages, such as `type: chat_template`.",
            )

    def _section(self, thinking: bool | None) -> TokenizerSection:
        if thinking is None:
            return self.section
        variables = {**self.section.chat_template_kwargs, self.switch: thinking}
        return self.section.model_copy(update={"chat_template_kwargs": variables})


def build_phrasing(config: Config, tokenizer: Any) -> Phrasing:
    """How the model of a config is asked.

    Raises:
        DataError: A template that cannot be found or read.
    """
    entry, section, shelf = config.first_dataset, config.tokenizer, config.preference.formats
    template = find_template(entry, section, tokenizer, shelf)
    return Phrasing(entry, section, tokenizer, find_switch(template or ""), template is not None, shelf)


def find_switch(template: str) -> str:
    """The variable of a chat template that switches thinking; empty if it reads none.

    A property of a message, such as `message.thinking` or `message['thinking']`, is none.
    """
    for name in _SWITCHES:
        if re.search(rf"(?<![.\w'\"]){name}(?![\w'\"])", template) and f"set {name} " not in template:
            return name
    return ""


def find_open_thought(prompt: str) -> str:
    """The tag with which a prompt lets the model begin to think, and the blanks behind it; empty if there is none."""
    found = _OPEN_THOUGHT.search(prompt)
    return found[0] if found else ""


def split_thought(message: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with its thought beside it, as `split_thinking` reads data; other messages as they are."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return dict(message)
    for opening, closing in THINK_TAGS:
        before, is_there, rest = content.partition(opening)
        thought, is_closed, after = rest.partition(closing)
        if is_there and is_closed and not before.strip():
            return {**message, "content": after.strip(), "reasoning_content": thought.strip()}
    return dict(message)
