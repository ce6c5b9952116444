"""`type: conversations`: the column `conversations`, rendered by the chat template.

Its messages are `{from, value}` or `{role, content}`; the keys of `chat_template` apply.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.formats.chat_template import FORMAT as CHAT
from siredon.data.formats.chat_template import read_conversation
from siredon.data.types import Conversation, Format, ReadOptions, Row

_COLUMN = "conversations"


def read_conversations(row: Row, options: ReadOptions) -> Conversation:
    """The messages of `conversations`, or of the column that `field_messages` names."""
    entry = options.entry
    if "field_messages" not in entry.model_fields_set:
        options = replace(options, entry=entry.model_copy(update={"field_messages": _COLUMN}))
    return read_conversation(row, options)


FORMAT = Format(read=read_conversations, prompt=CHAT.prompt, uses_template=True)
