"""Rows with two answers to one prompt -> preferences, in each layout that published data sets have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from siredon.data.columns import read_column, read_text
from siredon.data.conversation import add_system, build_message_options, read_messages
from siredon.data.messages import MessageOptions, decode_json, read_message, read_tools
from siredon.data.types import (
    Conversation,
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
#: What opens the turns of a prompt that is written out.
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Layout(NamedTuple):
    """Columns of a prompt and two answers.

    Args:
        prompt: Names that the column of the prompt may have, the likeliest first.
        chosen: The same of the better answer, where `field_chosen` names none.
        rejected: The same of the worse answer, where `field_rejected` names none.
    """

    prompt: tuple[str, ...]
    chosen: tuple[str, ...] = ("chosen",)
    rejected: tuple[str, ...] = ("rejected",)


#: Any of the names that are common.
COMMON = Layout(
    ("prompt", "input", "question", "instruction"),
    ("chosen", "chosen_response"),
    ("rejected", "rejected_response"),
)
#: argilla/distilabel-intel-orca-dpo-pairs.
ICR = Layout(("input",))
#: Intel/orca_dpo_pairs.
INTEL = Layout(("question",))
PROMPT_PAIRS = Layout(("prompt",))


def read_default(row: Row, options: ReadOptions) -> Preference:
    """The prompt is in `field_messages`, the answers in `field_chosen` and `field_rejected`.

    An answer is a text, a message, or a list of messages: of calls of tools, their results, and what follows.
    """
    entry, how = options.entry, _build_options(options)
    prompt = read_messages(row, entry.field_messages, how)
    return _read_answers(row, options, prompt, (entry.field_chosen, entry.field_rejected))


def read_columns(row: Row, options: ReadOptions, layout: Layout) -> Preference:
    """The prompt is a text, or a list of messages, in a column of its own; a text in `system` stands before it."""
    entry, how = options.entry, _build_options(options)
    name = _find_prompt(row, layout.prompt)
    value = row[name]
    prompt: tuple[Message, ...]
    if isinstance(value, str):
        if not value.strip():
            raise RowError(f"column `{name}` is empty")
        prompt = (Message({"role": "user", "content": value}, "user", value, False),)
    elif isinstance(value, list):
        prompt = read_messages(row, name, how)
    else:
        raise RowError(f"column `{name}` holds {type(value).__name__}, neither text nor messages")
    read_text(row, "system", required=False)  # It must not hold anything else
    chosen, rejected = (
        entry_name if key in entry.model_fields_set else _find_column(row, names)
        for key, entry_name, names in (
            ("field_chosen", entry.field_chosen, layout.chosen),
            ("field_rejected", entry.field_rejected, layout.rejected),
        )
    )
    return _read_answers(row, options, prompt, (chosen, rejected))


def read_whole(row: Row, options: ReadOptions) -> Preference:
    """Whole conversations are in `field_chosen` and `field_rejected`; what both begin with is the prompt."""
    entry, how = options.entry, _build_options(options)
    chosen, rejected = (_read_list(row, name) for name in (entry.field_chosen, entry.field_rejected))
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
    prompt = tuple(read_message(item, number, how) for number, item in enumerate(chosen[:shared], 1))
    return pair_answers(row, options, prompt, (answers[0], answers[1]))


def read_ultra(row: Row, options: ReadOptions) -> Preference:
    """Whole conversations, and a column `prompt` that repeats their last question (UltraFeedback, binarized)."""
    read_text(row, "system", required=False)
    found = read_whole(row, options)
    assert isinstance(found.chosen, Conversation)
    asked = [message.content for message in found.chosen.messages if message.role == "user"]
    prompt = read_text(row, "prompt", required=False)
    if prompt and prompt.strip() not in (text.strip() for text in asked):
        raise RowError(
            f"column `prompt` holds another question than `{options.entry.field_chosen}`: "
            "which of them was answered cannot be known"
        )
    return found


def read_ranked(row: Row, options: ReadOptions) -> Preference:
    """The two best of several answers: `answers` of `{answer, rank}`, where rank 1 is the best (Nectar).

    A prompt between `Human:` and `Assistant:`, as Nectar has them, is taken apart into its turns.
    """
    prompt = read_text(row, "prompt")
    if not prompt.strip():
        raise RowError("column `prompt` is empty")
    value = read_column(row, "answers")
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("column `answers` holds no list of two answers or more")
    ranked = sorted(
        (_read_rank(item, number) for number, item in enumerate(value, 1)), key=lambda item: item[0]
    )
    (first, best), (second, next_best) = ranked[:2]
    if first == second:
        raise LeftOut("the two best answers have the same rank")
    how = _build_options(options)
    answers = [tuple(_read_answer(text, "answers", how)) for text in (best, next_best)]
    return pair_answers(row, options, _split_turns(prompt), (answers[0], answers[1]))


def _read_rank(item: object, number: int) -> tuple[float, str]:
    if not isinstance(item, Mapping) or not isinstance(item.get("answer"), str):
        raise RowError(f"answer {number} has no text in `answer`")
    rank = item.get("rank")
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise RowError(f"answer {number} has no number in `rank`")
    return float(rank), item["answer"]


def _split_turns(text: str) -> tuple[Message, ...]:
    """The turns of a prompt that is written out between `Human:` and `Assistant:`; else one question."""
    body = "\n\n" + text.lstrip("\n")
    ends = body.rstrip().removesuffix(_ASSISTANT)
    if not body.startswith(_HUMAN) or ends == body.rstrip():
        return (Message({"role": "user", "content": text}, "user", text, False),)
    messages: list[Message] = []
    turns = ends.split(_HUMAN)[1:]
    for number, turn in enumerate(turns, 1):
        parts = turn.split(_ASSISTANT)
        if len(parts) != (1 if number == len(turns) else 2) or not all(part.strip() for part in parts):
            raise RowError("column `prompt`: `Human:` and `Assistant:` do not take turns")
        for role, said in zip(("user", "assistant"), parts, strict=False):
            content = said.removeprefix(" ")
            messages.append(Message({"role": role, "content": content}, role, content, False))
    return tuple(messages)


def _find_prompt(row: Row, names: Sequence[str]) -> str:
    """The column of the prompt."""
    first = _find_column(row, names)
    filled = {name: row[name] for name in names if row.get(name)}
    if first != "prompt" and any(value != row[first] for value in filled.values()):
        shown = " and ".join(f"`{name}`" for name in filled)
        raise RowError(
            f"has {shown}: which of them is the prompt cannot be known "
            "(`prompt_pairs` reads `prompt`, `icr` reads `input`, `intel` reads `question`)"
        )
    return first


def _find_column(row: Row, names: Sequence[str]) -> str:
    """The first of these columns that holds something, or else that is there."""
    found = [name for name in names if name in row]
    if not found:
        wanted = " or ".join(f"`{name}`" for name in names)
        raise RowError(f"has no column {wanted}; it has {', '.join(f'`{key}`' for key in row)}")
    return next((name for name in found if row[name] is not None), found[0])


def _read_answers(
    row: Row, options: ReadOptions, prompt: tuple[Message, ...], names: tuple[str, str]
) -> Preference:
    """The answers in two columns, of which neither repeats the prompt."""
    how = _build_options(options)
    chosen, rejected = (tuple(_read_answer(read_column(row, name), name, how)) for name in names)
    for name, answer in zip(names, (chosen, rejected), strict=True):
        if answer[0].role not in _ANSWERING:
            raise RowError(
                f"column `{name}` begins with a message of the role `{answer[0].role}`, which is no answer "
                "(whole conversations are `type: chat_template.argilla_chat`)"
            )
    return pair_answers(row, options, prompt, (chosen, rejected))


def _build_options(options: ReadOptions) -> MessageOptions:
    return replace(build_message_options(options), learn_all=False)


def _read_list(row: Row, name: str) -> list[Any]:
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


def pair_answers(
    row: Row,
    options: ReadOptions,
    prompt: tuple[Message, ...],
    answers: tuple[tuple[Message, ...], tuple[Message, ...]],
) -> Preference:
    """A prompt, of which nothing is learned, and two answers to it, with the system text and the tools of the row.

    Raises:
        RowError: Nothing of an answer is learned, or the tools are none.
    """
    entry = options.entry
    prompt = tuple(replace(message, learn=False, pieces=()) for message in prompt)
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
