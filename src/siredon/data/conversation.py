"""The messages of a row, as an entry of `datasets:` says where they are and how they are read."""

from __future__ import annotations

from siredon.data.columns import read_column
from siredon.data.messages import MessageOptions, decode_json, read_message
from siredon.data.types import Message, ReadOptions, Row, RowError

#: Keys of an entry by which messages are read.
MESSAGE_KEYS: tuple[str, ...] = (
    "field_tools",
    "message_property_mappings",
    "roles",
    "roles_to_train",
    "train_on_eos",
    "train_on_eot",
    "drop_system_message",
    "field_thinking",
    "template_thinking_key",
    "split_thinking",
    "message_field_training",
    "message_field_training_detail",
)
#: Keys of an entry that choose its chat template.
TEMPLATE_KEYS: tuple[str, ...] = ("chat_template", "chat_template_jinja")


def build_message_options(options: ReadOptions) -> MessageOptions:
    """How the messages of a data set are read."""
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


def read_messages(row: Row, name: str, how: MessageOptions) -> tuple[Message, ...]:
    """The messages in a column, at least one.

    Raises:
        RowError: The column is missing, or holds something else.
    """
    value = decode_json(read_column(row, name), f"column `{name}`: its messages")
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{name}` holds no list of messages")
    return tuple(read_message(item, number, how) for number, item in enumerate(value, start=1))


def add_system(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, behind the text of a column `system` where they have no system message themselves."""
    text = row.get("system")
    if not isinstance(text, str) or not text or messages[0].role == "system":
        return messages
    return (Message({"role": "system", "content": text}, "system", text, False), *messages)
