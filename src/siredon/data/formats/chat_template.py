"""`type: chat_template`: a list of messages, rendered by the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from siredon.data.columns import read_column
from siredon.data.types import Conversation, Format, Message, ReadOptions, Row, RowError

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
_NOT_BUILT = ("tool_calls", "reasoning_content", "thinking", "reasoning")


def read_conversation(row: Row, options: ReadOptions) -> Conversation:
    """The messages of `field_messages`; those of `roles_to_train` are learned."""
    name = options.entry.field_messages
    value = _decode(read_column(row, name), name)
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{name}` holds no list of messages")
    if row.get("tools"):
        raise RowError("has `tools`: tool calls are not built yet")
    roles = {source: role for role, sources in options.entry.roles.items() for source in sources}
    messages = tuple(
        _read_message(item, number, roles, options) for number, item in enumerate(value, start=1)
    )
    if not options.train_on_inputs and not any(message.learn for message in messages):
        trained = ", ".join(options.entry.roles_to_train)
        raise RowError(f"has no message of a role that is learned ({trained})")
    return Conversation(messages)


def _read_message(item: object, number: int, roles: Mapping[str, str], options: ReadOptions) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"message {number} is no object")
    role_name, content_name = _property_names(item, options)
    for name, value in (("role", item.get(role_name)), ("content", item.get(content_name))):
        if not isinstance(value, str):
            column = role_name if name == "role" else content_name
            raise RowError(f"message {number} has no text in `{column}` (its {name})")
    for name in _NOT_BUILT:
        if item.get(name):
            raise RowError(f"message {number} has `{name}`: tool calls and reasoning are not built yet")
    source = str(item[role_name])
    role = roles.get(source) or _ROLES.get(source) or source
    rest = {key: value for key, value in item.items() if key not in (role_name, content_name)}
    properties = {**rest, "role": role, "content": item[content_name]}
    learn = options.train_on_inputs or role in options.entry.roles_to_train
    return Message(properties, role, item[content_name], learn)


def _property_names(item: Mapping[str, Any], options: ReadOptions) -> tuple[str, str]:
    mappings = options.entry.message_property_mappings
    if not mappings and "role" not in item and "from" in item:
        return "from", "value"
    return mappings.get("role", "role"), mappings.get("content", "content")


def _decode(value: object, name: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"column `{name}` holds text that is no JSON ({error})") from None


def render_prompt(text: str) -> Conversation:
    """One question of the user."""
    properties = {"role": "user", "content": text}
    return Conversation((Message(properties, "user", text, False),))


FORMAT = Format(read=read_conversation, prompt=render_prompt, uses_template=True)
