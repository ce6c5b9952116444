"""A whole conversation -> the text after which the model answers, as training rendered it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS
from siredon.data.choose import choose_format
from siredon.data.messages import MessageOptions, read_message
from siredon.data.template import entry_renderer
from siredon.data.types import Conversation, Message, RowError
from siredon.registry import Shelf

#: Who may speak.
ROLES = ("system", "developer", "user", "assistant", "tool")


def build_dialogue(
    entry: DatasetEntry, section: TokenizerSection, tokenizer: Any, shelf: Shelf = FORMATS
) -> Callable[[Sequence[Any]], str]:
    """What turns messages into the text after which the model answers.

    A format without a chat template asks one question at a time, and takes one message of the user.  What it returns
    raises `RowError` for messages that are none, or that the template refuses.

    Args:
        entry: The data set on which the model was trained.
        section: Tokenizer.
        tokenizer: The same, loaded.
        shelf: Where its format is.
    """
    part = choose_format(entry, shelf)
    renderer = entry_renderer(entry, section, tokenizer, shelf)

    def render(items: Sequence[Any]) -> str:
        messages = tuple(_read(item, number) for number, item in enumerate(items, 1))
        if not messages:
            raise RowError("there is no message")
        alone = len(messages) == 1 and messages[0].role == "user"
        if part.uses_template and not alone:
            return renderer.render_prompt(Conversation(messages))
        if not alone:
            raise RowError(
                f"the model was trained on `type: {entry.type}`, which asks one question at a time: "
                "send one message, of the role `user`"
            )
        return renderer.render_prompt(part.prompt(messages[0].content))

    return render


def _read(item: Any, number: int) -> Message:
    if isinstance(item, Mapping) and item.get("role") not in ROLES:
        raise RowError(f"message {number} has the role {item.get('role')!r}: it may be {', '.join(ROLES)}")
    return read_message(item, number, MessageOptions())
