"""Where each message lies in a rendered conversation.

A conversation is rendered a second time with private characters in the strings of some messages.  If taking them
out again gives the first text, they show where those strings lie in it, whatever the template does around them.
They stand inside the blanks at both ends of a string, so that a template that trims leaves them alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siredon.data.types import Message, RowError

# Three characters a message, from a plane that is reserved for private use
_FIRST = 0xF0000
_KINDS = 3
_LEFT, _RIGHT, _OTHER = range(_KINDS)
MAX_MESSAGES = 20_000
_MARK = re.compile(f"[{chr(_FIRST)}-{chr(_FIRST + _KINDS * MAX_MESSAGES - 1)}]")
#: Properties that hold what a model thinks before it answers.
REASONING = ("reasoning_content", "reasoning", "thinking")

Apply = Callable[[Sequence[Mapping[str, Any]]], str]


@dataclass
class Found:
    """What was found of one message, as positions in the text.

    Args:
        left: Where its content begins; several if the template shows it several times.
        right: Where its content ends.
        others: Where names, arguments and reasoning of it lie.
    """

    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    @property
    def places(self) -> list[int]:
        """All positions."""
        return [*self.left, *self.right, *self.others]


def locate_messages(
    messages: Sequence[Message], wanted: Iterable[int], text: str, apply: Apply
) -> dict[int, Found]:
    """Finds messages in the text of their conversation.

    Args:
        messages: The messages.
        wanted: The indices of those to find.
        text: The conversation as the template renders it.
        apply: Renders messages.

    Returns:
        Index of a message -> where it lies.

    Raises:
        RowError: The template turns marked strings into something else, or the data holds private characters.
    """
    if _MARK.search(text) or len(messages) > MAX_MESSAGES:
        raise RowError("holds characters of the private plane U+F0000, which mark messages here")
    wanted = sorted(wanted)
    # A template may look at how a string begins, such as `<think>`; then a mark at its end alone may do
    for sides in ((_LEFT, _RIGHT), (_RIGHT,)):
        marked = [_mark(message, index, sides) for index, message in enumerate(messages) if index in wanted]
        properties: list[Mapping[str, Any]] = [message.properties for message in messages]
        for index, item in zip(wanted, marked, strict=True):
            properties[index] = item
        found = _read_marks(apply(properties), text)
        if found is not None:
            return found
    number = _find_changed(messages, wanted, text, apply)
    raise RowError(
        f"message {number + 1} ({messages[number].role}) is rewritten by the chat template, "
        "so what of it is learned cannot be known exactly"
    )


def _find_changed(messages: Sequence[Message], wanted: Sequence[int], text: str, apply: Apply) -> int:
    """The first message whose marks alone change the text."""
    for index in wanted:
        properties: list[Mapping[str, Any]] = [message.properties for message in messages]
        properties[index] = _mark(messages[index], index, (_RIGHT,))
        if _read_marks(apply(properties), text) is None:
            return index
    return wanted[0]


def _read_marks(rendered: str, text: str) -> dict[int, Found] | None:
    """Where the marks lie; None if what is around them is not the text."""
    found: dict[int, Found] = {}
    pieces, offset, last = [], 0, 0
    for match in _MARK.finditer(rendered):
        pieces.append(rendered[last : match.start()])
        offset += match.start() - last
        last = match.end()
        index, kind = divmod(ord(match.group()) - _FIRST, _KINDS)
        entry = found.setdefault(index, Found())
        (entry.left, entry.right, entry.others)[kind].append(offset)
    pieces.append(rendered[last:])
    return found if "".join(pieces) == text else None


def _mark(message: Message, index: int, sides: Sequence[int]) -> dict[str, Any]:
    """The properties with marks in content, reasoning and tool calls."""
    properties = dict(message.properties)
    code = _FIRST + _KINDS * index
    other = chr(code + _OTHER)
    for name in REASONING:
        if isinstance(properties.get(name), str) and properties[name].strip():
            properties[name] = _surround(properties[name], other, other)
    if properties.get("tool_calls"):
        properties["tool_calls"] = [_mark_call(call, other) for call in properties["tool_calls"]]
    has_other = any(properties.get(name) for name in (*REASONING, "tool_calls"))
    content = properties.get("content")
    if isinstance(content, str) and (content.strip() or not has_other):
        left = chr(code + _LEFT) if _LEFT in sides else ""
        properties["content"] = _surround(content, left, chr(code + _RIGHT))
    return properties


def _mark_call(call: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """A tool call with its name and its arguments marked."""
    call = dict(call)
    inner = dict(call["function"]) if isinstance(call.get("function"), Mapping) else call
    if isinstance(inner.get("name"), str):
        inner["name"] = f"{mark}{inner['name']}{mark}"
    if inner.get("arguments"):
        inner["arguments"] = _mark_strings(inner["arguments"], mark)
    if inner is not call:
        call["function"] = inner
    return call


def _mark_strings(value: Any, mark: str) -> Any:
    """Every text in a value, marked at its end."""
    if isinstance(value, str):
        return value + mark if value else value
    if isinstance(value, Mapping):
        return {name: _mark_strings(inner, mark) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mark_strings(inner, mark) for inner in value]
    return value


def _surround(text: str, left: str, right: str) -> str:
    """The text with marks inside its blanks; behind them where there is nothing else."""
    core = text.strip()
    start = text.find(core) if core else len(text)
    end = start + len(core)
    return f"{text[:start]}{left}{core}{right}{text[end:]}"
