"""Messages as data has them -> messages as chat templates take them: one form for all spellings.

The form is that of transformers: `role`, `content` as text, `tool_calls` with arguments as mappings, reasoning
beside the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siredon.data.types import Message, RowError

#: What data calls a role -> what templates call it.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
}
#: Roles whose whole content is a tool call.
_CALLING = ("function_call",)
_REASONING_PARTS = ("reasoning", "thinking", "think")
#: Pairs of tags between which models think.
THINK_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_SOLUTION = re.compile(r"^\s*<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>\s*$", re.DOTALL)


@dataclass(frozen=True)
class MessageOptions:
    """How messages are read.

    Args:
        names: Property of a message -> its name in the data.
        roles: Name of a role in the data -> the template's, before `ROLES`.
        roles_to_train: Roles that are learned.
        learn_all: Learn every message.
        field_thinking: Property that holds reasoning.
        thinking_key: Name under which the template expects it.
        split_thinking: Take reasoning out of the content, by its tags.
        field_training: Property that says whether a message is learned.
        field_detail: Property that lists ranges of characters and whether each is learned.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    roles_to_train: Sequence[str] = ("assistant",)
    learn_all: bool = False
    field_thinking: str | None = None
    thinking_key: str = "reasoning_content"
    split_thinking: bool = False
    field_training: str | None = None
    field_detail: str | None = None


def read_message(item: object, number: int, options: MessageOptions) -> Message:
    """One message of a conversation.

    Args:
        item: What the data has.
        number: Its number, from 1, for errors.
        options: How messages are read.

    Raises:
        RowError: It is no message; says which and why.
    """
    if not isinstance(item, Mapping):
        raise RowError(f"message {number} is no object")
    names = options.names
    if not names and "role" not in item and "from" in item:
        names = {"role": "from", "content": "value"}
    role_name, content_name = names.get("role", "role"), names.get("content", "content")
    source = item.get(role_name)
    if not isinstance(source, str) or not source:
        raise RowError(f"message {number} has no text in `{role_name}` (its role)")
    role = options.roles.get(source) or ROLES.get(source) or source
    read = _Reader(number, role, options)
    used = {role_name, content_name, *names.values(), *read.own_names}
    properties: dict[str, Any] = {
        name: value for name, value in item.items() if name not in used and value is not None
    }
    properties |= {
        new: item[old]
        for new, old in names.items()
        if new not in ("role", "content") and item.get(old) is not None
    }
    content = item.get(content_name)
    calls = read.tool_calls(properties.pop("tool_calls", None))
    if source in _CALLING:
        calls, content = read.tool_calls(content), ""
    parts = read.content(content, content_name, has_calls=bool(calls))
    return read.build(item, {**properties, "role": role}, parts, calls)


@dataclass
class _Parts:
    """What a content holds: its text, whether each part of it is learned, reasoning, tool calls."""

    text: str = ""
    pieces: list[tuple[int, bool | None]] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)


class _Reader:
    """Reads the properties of one message.

    Args:
        number: Number of the message, from 1.
        role: Its role, in the template's words.
        options: How messages are read.
    """

    def __init__(self, number: int, role: str, options: MessageOptions) -> None:
        self.where, self.role, self.options = f"message {number}", role, options
        asked = (options.field_thinking, options.field_training, options.field_detail)
        self.own_names = tuple(name for name in asked if name)

    def build(
        self, item: Mapping[str, Any], properties: dict[str, Any], parts: _Parts, calls: list[dict[str, Any]]
    ) -> Message:
        """The message."""
        options = self.options
        calls = [*calls, *parts.calls]
        thought = self._thought(item, properties, parts)
        learn = options.learn_all or self.role in options.roles_to_train
        if options.field_training and item.get(options.field_training) is not None:
            learn = self._flag(item[options.field_training], options.field_training)
        pieces = self._pieces(item, parts, learn)
        if self.role == "assistant" and not (parts.text.strip() or calls or thought):
            raise RowError(f"{self.where} ({self.role}) is empty")
        properties["content"] = parts.text
        if calls:
            properties["tool_calls"] = calls
        if thought:
            properties[options.thinking_key] = thought
        return Message(properties, self.role, parts.text, learn or any(flag for _, flag in pieces), pieces)

    def content(self, value: object, name: str, *, has_calls: bool) -> _Parts:
        """The text of a message, and the parts that it is made of."""
        if isinstance(value, str):
            return _Parts(value)
        if value is None and has_calls:
            return _Parts()
        if not isinstance(value, list):
            raise RowError(f"{self.where} has no text in `{name}` (its content)")
        parts = _Parts()
        for part in value:
            self._add_part(parts, part, name)
        return parts

    def _add_part(self, parts: _Parts, part: object, name: str) -> None:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            raise RowError(f"{self.where} has a part of `{name}` that is neither text nor object")
        kind = part.get("type", "text")
        text = next((part[key] for key in ("text", "content", "value", kind) if key in part), None)
        if kind == "tool_call":
            parts.calls += self.tool_calls(text if text is not None else part)
            return
        if kind != "text" and kind not in _REASONING_PARTS:
            raise RowError(f"{self.where} has a part of type `{kind}`: only text can be trained on yet")
        if not isinstance(text, str):
            raise RowError(f"{self.where} has a part of type `{kind}` without text")
        if kind in _REASONING_PARTS:
            parts.reasoning.append(text)
        else:
            parts.text += text
            flag = part.get("train", part.get("weight"))
            parts.pieces.append((len(parts.text), None if flag is None else self._flag(flag, "train")))

    def tool_calls(self, value: object) -> list[dict[str, Any]]:
        """Tool calls, each with its name and its arguments as a mapping."""
        value = decode_json(value, f"{self.where}: its tool calls")
        if not value:
            return []
        calls = value if isinstance(value, list) else [value]
        return [self._tool_call(decode_json(call, f"{self.where}: a tool call")) for call in calls]

    def _tool_call(self, call: object) -> dict[str, Any]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if (
            not isinstance(call, Mapping)
            or not isinstance(inner, Mapping)
            or not isinstance(inner.get("name"), str)
        ):
            raise RowError(f"{self.where} has a tool call without a `name`")
        arguments = decode_json(
            inner.get("arguments", inner.get("parameters")), f"{self.where}: the arguments"
        )
        if not isinstance(arguments, Mapping):
            arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping):
            raise RowError(f"{self.where} calls `{inner['name']}` with arguments that are no object")
        rest = {key: call[key] for key in ("id", "index") if call.get(key) is not None}
        return {**rest, "type": "function", "function": {"name": inner["name"], "arguments": dict(arguments)}}

    def _thought(self, item: Mapping[str, Any], properties: dict[str, Any], parts: _Parts) -> str:
        """The reasoning of a message: a property, parts of its content, or text between tags."""
        options = self.options
        found = list(parts.reasoning)
        name = options.field_thinking
        value = item.get(name) if name else properties.pop(options.thinking_key, None)
        if isinstance(value, list):
            value = "".join(
                str(part.get("text", part.get("content", ""))) for part in value if isinstance(part, Mapping)
            )
        if isinstance(value, str) and value:
            found.append(value)
        elif value:
            raise RowError(f"{self.where} has no text in `{name or options.thinking_key}` (its reasoning)")
        if options.split_thinking and not found and self.role == "assistant" and not parts.pieces:
            parts.text, thought = split_reasoning(parts.text)
            found += [thought] if thought else []
        return "".join(found)

    def _pieces(self, item: Mapping[str, Any], parts: _Parts, learn: bool) -> tuple[tuple[int, bool], ...]:
        """The parts of the content that are learned and that are not; none where all of it is alike."""
        name = self.options.field_detail
        detail = item.get(name) if name else None
        if detail:
            return self._detail(detail, len(parts.text), str(name), learn)
        flags = [(end, learn if flag is None else flag) for end, flag in parts.pieces]
        return () if len({flag for _, flag in flags} | {learn}) == 1 else tuple(flags)

    def _detail(self, detail: object, length: int, name: str, learn: bool) -> tuple[tuple[int, bool], ...]:
        """Ranges of characters, both ends counted in, as `{begin_offset, end_offset, train}`."""
        ranges = decode_json(detail, f"{self.where}: `{name}`")
        pieces: list[tuple[int, bool]] = []
        last = 0
        try:
            ordered = sorted(ranges, key=lambda entry: entry["begin_offset"])
            for entry in ordered:
                start, end = entry["begin_offset"], entry["end_offset"] + 1
                if not last <= start < end <= length:
                    raise RowError(f"{self.where}: the ranges of `{name}` overlap, or leave the content")
                pieces += [(start, learn)] * (start > last) + [(end, self._flag(entry["train"], "train"))]
                last = end
        except (TypeError, KeyError) as error:
            raise RowError(
                f"{self.where}: `{name}` is no list of `begin_offset`, `end_offset` and `train`"
            ) from error
        return tuple(pieces + [(length, learn)] * (last < length))

    def _flag(self, value: object, name: str) -> bool:
        if isinstance(value, bool):
            return value
        if value in (0, 1):
            return bool(value)
        raise RowError(f"{self.where}: `{name}` is neither true nor false")


def read_tools(value: object) -> tuple[Mapping[str, Any], ...] | None:
    """Tools that a model may call, as `{type: function, function: {name, ...}}`; None for none.

    Raises:
        RowError: They are no list of tools.
    """
    value = decode_json(value, "its tools")
    if not value:
        return None
    if not isinstance(value, list):
        raise RowError("has tools that are no list")
    tools = []
    for tool in value:
        tool = decode_json(tool, "a tool")
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RowError("has a tool without a `name`")
        function = {name: part for name, part in inner.items() if part is not None}
        if "parameters" in function:
            function["parameters"] = decode_json(
                function["parameters"], f"the parameters of `{inner['name']}`"
            )
        rest = {
            name: part
            for name, part in tool.items()
            if tool is not inner and name not in ("type", "function")
        }
        tools.append({"type": "function", "function": function, **rest})
    return tuple(tools)


def split_reasoning(text: str) -> tuple[str, str]:
    """Content -> the answer, and the reasoning that stood before it between tags."""
    for opening, closing in THINK_TAGS:
        head = text.lstrip()
        if head.startswith(opening) and closing in head:
            thought, _, answer = head[len(opening) :].partition(closing)
            solution = _SOLUTION.match(answer)
            return (solution[1] if solution else answer).strip(), thought.strip()
    return text, ""


def decode_json(value: object, what: str) -> Any:
    """The value, or what its text holds as JSON.

    Raises:
        RowError: It is text and no JSON.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"{what} hold text that is no JSON ({error})") from None
