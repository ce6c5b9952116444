"""`type: chat_template`: a list of messages, rendered by the chat template."""

from __future__ import annotations

from siredon.data.columns import read_column
from siredon.data.messages import MessageOptions, decode_json, read_message, read_tools
from siredon.data.types import Conversation, Format, Message, ReadOptions, Row, RowError


def read_conversation(row: Row, options: ReadOptions) -> Conversation:
    """The messages of `field_messages`; those of `roles_to_train` are learned."""
    entry = options.entry
    name = entry.field_messages
    value = decode_json(read_column(row, name), f"column `{name}`: its messages")
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{name}` holds no list of messages")
    how = _read_options(options)
    messages = tuple(read_message(item, number, how) for number, item in enumerate(value, start=1))
    messages = _with_system(row, messages)
    if entry.drop_system_message and messages[0].role == "system":
        messages = messages[1:]
    if not any(message.learn for message in messages):
        trained = ", ".join(entry.roles_to_train)
        raise RowError(f"has no message that is learned (of a role among: {trained})")
    return Conversation(messages, read_tools(row.get(entry.field_tools)))


def _read_options(options: ReadOptions) -> MessageOptions:
    entry = options.entry
    return MessageOptions(
        names=entry.message_property_mappings,
        roles={source: role for role, sources in entry.roles.items() for source in sources},
        roles_to_train=entry.roles_to_train,
        learn_all=options.train_on_inputs,
        field_thinking=entry.field_thinking,
        thinking_key=entry.template_thinking_key,
        split_thinking=entry.split_thinking,
        field_training=entry.message_field_training,
        field_detail=entry.message_field_training_detail,
    )


def _with_system(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, behind the text of a column `system` where they have no system message themselves."""
    text = row.get("system")
    if not isinstance(text, str) or not text or messages[0].role == "system":
        return messages
    return (Message({"role": "system", "content": text}, "system", text, False), *messages)


def render_prompt(text: str) -> Conversation:
    """One question of the user."""
    properties = {"role": "user", "content": text}
    return Conversation((Message(properties, "user", text, False),))


FORMAT = Format(read=read_conversation, prompt=render_prompt, uses_template=True)
