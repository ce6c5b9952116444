"""`type: chat_template.default`: messages, and a better and a worse answer to them, rendered by the chat template.

`chat_template.argilla_chat` is the same for rows whose answers repeat the whole conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from siredon.data.columns import read_column
from siredon.data.conversation import add_system, build_message_options, read_messages
from siredon.data.formats.chat_template import render_prompt
from siredon.data.messages import MessageOptions, decode_json, read_message, read_tools
from siredon.data.types import (
    Conversation,
    Format,
    LeftOut,
    Message,
    Preference,
    ReadOptions,
    Row,
    RowError,
)

#: What an answer consists of.
_ANSWERING = ("assistant", "tool")
#: Why a row is left out.
EMPTY = "an answer is empty"


def read_default(row: Row, options: ReadOptions) -> Preference:
    """The prompt is in `field_messages`, the answers in `field_chosen` and `field_rejected`.

    An answer is a text, a message, or a list of messages: of calls of tools, their results, and what follows.
    """
    entry, how = options.entry, _build_options(options)
    prompt = _unlearned(read_messages(row, entry.field_messages, how))
    chosen, rejected = (
        tuple(_read_answer(read_column(row, name), name, how))
        for name in (entry.field_chosen, entry.field_rejected)
    )
    for name, answer in ((entry.field_chosen, chosen), (entry.field_rejected, rejected)):
        if answer[0].role not in _ANSWERING:
            raise RowError(
                f"column `{name}` begins with a message of the role `{answer[0].role}`, which is no answer "
                "(whole conversations are `type: chat_template.argilla_chat`)"
            )
    return _pair(row, options, prompt, (chosen, rejected))


def read_whole(row: Row, options: ReadOptions) -> Preference:
    """Whole conversations are in `field_chosen` and `field_rejected`; what both begin with is the prompt."""
    entry, how = options.entry, _build_options(options)
    chosen, rejected = (_read_list(row, name, how) for name in (entry.field_chosen, entry.field_rejected))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        raise RowError(
            f"`{entry.field_chosen}` and `{entry.field_rejected}` begin with different messages: "
            "there is no prompt that both answer"
        )
    answers = tuple(
        tuple(read_message(item, number, how) for number, item in enumerate(items[shared:], shared + 1))
        for items in (_check_filled(chosen, shared, how), _check_filled(rejected, shared, how))
    )
    prompt = (read_message(item, number, how) for number, item in enumerate(chosen[:shared], 1))
    return _pair(row, options, _unlearned(prompt), (answers[0], answers[1]))


def _build_options(options: ReadOptions) -> MessageOptions:
    return replace(build_message_options(options), learn_all=False)


def _read_list(row: Row, name: str, how: MessageOptions) -> list[Any]:
    value = decode_json(read_column(row, name), f"column `{name}`: its messages")
    if not isinstance(value, list) or not value:
        raise RowError(f"column `{name}` holds no list of messages")
    return value


def _read_answer(value: object, name: str, how: MessageOptions) -> Sequence[Message]:
    """An answer, in any of its forms."""
    if isinstance(value, str):
        value, how = {"role": "assistant", "content": value}, replace(how, names={})
    items = value if isinstance(value, list) else [value]
    if not items:
        raise LeftOut(EMPTY)
    if not all(isinstance(item, Mapping) for item in items):
        raise RowError(f"column `{name}` holds neither a text nor messages")
    return [
        read_message(item, number, how) for number, item in enumerate(_check_filled(items, 0, how), start=1)
    ]


def _check_filled(items: Sequence[Any], start: int, how: MessageOptions) -> Sequence[Any]:
    """The messages, of which the last one says or calls something.

    Raises:
        LeftOut: It does not.
    """
    last = items[-1]
    if len(items) > start and isinstance(last, Mapping):
        values = [value for key, value in last.items() if key not in _role_names(how)]
        if not any(value.strip() if isinstance(value, str) else value for value in values):
            raise LeftOut(EMPTY)
    return items


def _role_names(how: MessageOptions) -> tuple[str, ...]:
    return ("role", "from", how.names.get("role", "role"))


def _unlearned(messages: Any) -> tuple[Message, ...]:
    return tuple(replace(message, learn=False, pieces=()) for message in messages)


def _pair(
    row: Row,
    options: ReadOptions,
    prompt: tuple[Message, ...],
    answers: tuple[tuple[Message, ...], tuple[Message, ...]],
) -> Preference:
    entry = options.entry
    prompt = add_system(row, prompt)
    if entry.drop_system_message and prompt[0].role == "system":
        prompt = prompt[1:]
    for name, answer in zip((entry.field_chosen, entry.field_rejected), answers, strict=True):
        if not any(message.learn for message in answer):
            trained = ", ".join(entry.roles_to_train)
            raise RowError(f"`{name}` has no message that is learned (of a role among: {trained})")
    tools = read_tools(row.get(entry.field_tools))
    chosen, rejected = (Conversation((*prompt, *answer), tools) for answer in answers)
    return Preference(chosen, rejected)


_WHOLE = Format(read=read_whole, prompt=render_prompt, uses_template=True)
_DEFAULT = Format(read=read_default, prompt=render_prompt, uses_template=True)
FORMAT = Format(
    read=read_default,
    prompt=render_prompt,
    uses_template=True,
    variants={"default": _DEFAULT, "argilla_chat": _WHOLE, "argilla": _WHOLE},
)
