"""`type: chat_template`: a list of messages, rendered by the chat template."""

from __future__ import annotations

from siredon.data.conversation import add_system, build_message_options, read_messages
from siredon.data.messages import read_tools
from siredon.data.types import Conversation, Format, Message, ReadOptions, Row, RowError


def read_conversation(row: Row, options: ReadOptions) -> Conversation:
    """The messages of `field_messages`; those of `roles_to_train` are learned."""
    entry = options.entry
    messages = read_messages(row, entry.field_messages, build_message_options(options))
    messages = add_system(row, messages)
    if entry.drop_system_message and messages[0].role == "system":
        messages = messages[1:]
    if not any(message.learn for message in messages):
        trained = ", ".join(entry.roles_to_train)
        raise RowError(f"has no message that is learned (of a role among: {trained})")
    return Conversation(messages, read_tools(row.get(entry.field_tools)))


def render_prompt(text: str) -> Conversation:
    """One question of the user."""
    properties = {"role": "user", "content": text}
    return Conversation((Message(properties, "user", text, False),))


FORMAT = Format(read=read_conversation, prompt=render_prompt, uses_template=True)
