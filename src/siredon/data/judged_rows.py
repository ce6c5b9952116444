"""Rows with one answer that is good or bad -> what is rendered of them, and their judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from siredon.data.columns import read_column, read_filled, read_text
from siredon.data.conversation import add_system, build_message_options, read_messages
from siredon.data.messages import MessageOptions, decode_json, read_message, read_tools
from siredon.data.types import Conversation, Judged, LeftOut, Message, ReadOptions, Row, RowError

#: What an answer consists of.
_ANSWERING = ("assistant", "tool")
#: Why a row is left out.
EMPTY = "the answer is empty"


def read_label(row: Row, name: str) -> bool:
    """Whether the answer of a row is good.

    Raises:
        RowError: The column is missing, or holds no boolean.
    """
    value = read_column(row, name)
    if not isinstance(value, bool):
        raise RowError(f"column `{name}` holds {value!r:.40}, which is neither true nor false")
    return value


def read_conversation(
    row: Row, options: ReadOptions, prompt: str, completion: str | None, label: str
) -> Judged:
    """A list of messages in the column `prompt`, and the answer to it in the column `completion`.

    Where a row has no column for the answer, or `completion` is None, the last message is the answer.

    Raises:
        LeftOut: The answer is empty.
        RowError: Anything is missing, or is something else.
    """
    is_desirable = read_label(row, label)
    how = replace(build_message_options(options), learn_all=False)
    if completion is not None and (completion in row or "field_completion" in options.entry.model_fields_set):
        messages = read_messages(row, prompt, how)
        answer = read_answer(read_column(row, completion), completion, how)
        return judge(row, options, messages, answer, is_desirable)
    written = decode_json(read_column(row, prompt), f"column `{prompt}`: its messages")
    if isinstance(written, list) and written and isinstance(written[-1], Mapping):
        _check_filled(written, how)
    messages = read_messages(row, prompt, how)
    if len(messages) < 2:
        raise RowError(
            f"column `{prompt}` holds a single message, not a prompt and its answer{_lacking(completion)}"
        )
    last = messages[-1]
    if last.role not in _ANSWERING:
        raise RowError(
            f"the last message in column `{prompt}` is of the role `{last.role}`, which is no answer"
            f"{_lacking(completion)}"
        )
    return judge(row, options, messages[:-1], (last,), is_desirable)


def _lacking(completion: str | None) -> str:
    return "" if completion is None else f" (and there is no column `{completion}`)"


def read_question(row: Row, options: ReadOptions, prompt: str) -> Judged:
    """A question in the column `prompt`, as a text or messages, and the answer to it in `field_completion`.

    Raises:
        LeftOut: The answer is empty.
        RowError: Anything is missing, or is something else.
    """
    entry = options.entry
    is_desirable = read_label(row, entry.field_label)
    how = replace(build_message_options(options), learn_all=False)
    value = read_column(row, prompt)
    if isinstance(value, list):
        asked = read_messages(row, prompt, how)
    else:
        text = read_filled(row, prompt)
        asked = (Message({"role": "user", "content": text}, "user", text, False),)
    read_text(row, "system", required=False)  # It must not hold anything else
    answer = read_answer(read_column(row, entry.field_completion), entry.field_completion, how)
    return judge(row, options, asked, answer, is_desirable)


def read_answer(value: object, name: str, how: MessageOptions) -> tuple[Message, ...]:
    """An answer: a text, a message, or a list of messages, of calls of tools, their results, and what follows.

    Raises:
        LeftOut: It is empty.
        RowError: It is something else.
    """
    if isinstance(value, str):
        value, how = {"role": "assistant", "content": value}, replace(how, names={})
    items: list[Any] = value if isinstance(value, list) else [value]
    if not items:
        raise LeftOut(EMPTY)
    if not all(isinstance(item, Mapping) for item in items):
        raise RowError(f"column `{name}` holds neither a text nor messages")
    _check_filled(items, how)
    answer = tuple(read_message(item, number, how) for number, item in enumerate(items, start=1))
    if answer[0].role not in _ANSWERING:
        raise RowError(
            f"column `{name}` begins with a message of the role `{answer[0].role}`, which is no answer"
        )
    return answer


def judge(
    row: Row,
    options: ReadOptions,
    prompt: tuple[Message, ...],
    answer: tuple[Message, ...],
    is_desirable: bool,
) -> Judged:
    """A prompt, of which nothing is learned, and its answer, with the system text and the tools of the row.

    Raises:
        RowError: Nothing of the answer is learned, or the tools are none.
    """
    entry = options.entry
    prompt = add_system(row, tuple(replace(message, learn=False, pieces=()) for message in prompt))
    if entry.drop_system_message and prompt[0].role == "system":
        prompt = prompt[1:]
    if not any(message.learn for message in answer):
        trained = ", ".join(entry.roles_to_train)
        raise RowError(f"the answer has no message that is learned (of a role among: {trained})")
    return Judged(Conversation((*prompt, *answer), read_tools(row.get(entry.field_tools))), is_desirable)


def _check_filled(items: Sequence[Mapping[str, Any]], how: MessageOptions) -> None:
    """The last message says or calls something."""
    names = ("role", "from", how.names.get("role", "role"))
    values = [value for key, value in items[-1].items() if key not in names]
    if not any(value.strip() if isinstance(value, str) else value for value in values):
        raise LeftOut(EMPTY)
