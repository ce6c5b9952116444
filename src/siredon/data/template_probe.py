"""What a chat template puts around messages, found out by rendering a few of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from traceback import extract_tb
from typing import Any, Protocol

from siredon.data.types import RowError
from siredon.errors import DataError

_QUESTION, _ANSWER = "first question", "first answer"
_TALK: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": "second question"},
    {"role": "assistant", "content": "second answer"},
)
_SYSTEM: dict[str, Any] = {"role": "system", "content": "rules"}
_CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "look_up", "arguments": {"word": "axolotl"}},
}
_RESULT = "a salamander"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "description": "The word."}},
        },
    },
}


class ChatTokenizer(Protocol):
    """The part of a tokenizer of transformers that rendering needs."""

    bos_token: str | None
    eos_token: str | None

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """Names of special tokens -> their texts."""

    def get_chat_template(self) -> str:
        """The template that came with it."""


@dataclass(frozen=True)
class Probed:
    """What a template puts around messages.

    Args:
        openings: The generation prompt, and its beginnings, the longest first: the model's words follow.
        headers: What stands between a question or a tool's result and the answer, where there is no generation prompt.
        closers: Special tokens with which the end of a turn begins.
        stops: Tokens on which an answer ends.
        specials: All special tokens.
        hides_tools: Whether it leaves out the tools that it is given.
    """

    openings: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    specials: tuple[str, ...] = ()
    hides_tools: bool = False


def apply_template(
    tokenizer: ChatTokenizer, template: str | None, messages: Sequence[Mapping[str, Any]], **options: Any
) -> str:
    """Messages -> text by the chat template, in a sandbox with limits; as `apply_chat_template` of transformers.

    Raises:
        RowError: The template refuses the messages.
        DataError: The template does more than one may.
    """
    from jinja2 import TemplateError

    from siredon.data.template_limits import LimitReached
    from siredon.data.template_sandbox import render_template

    if not messages:
        raise RowError("the chat template refuses it: there is no message")
    variables = {"tools": None, "documents": None, "add_generation_prompt": False}
    variables |= {**tokenizer.special_tokens_map, **options}
    source = tokenizer.get_chat_template() if template is None else template
    try:
        chat = [_name_reasoning(_plain(_drop_none(message))) for message in messages]
        return render_template(source, {**_plain(variables), "messages": chat})
    except (LimitReached, MemoryError, RecursionError) as error:
        raise DataError(*_explain_limit(error)) from None
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        SyntaxError,
        TemplateError,
    ) as error:
        raise RowError(f"the chat template refuses it: {error}") from error


def _explain_limit(error: BaseException) -> tuple[str, str]:
    """What a template did that it may not, and the way out."""
    what = str(error)
    if isinstance(error, RecursionError):
        what = "calls itself, or puts values into each other, too deep"
    elif isinstance(error, MemoryError):
        what = "needs more memory than there is"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
    where = f", line {lines[-1]}" if lines else ""
    return (
        f"the chat template{where} {what}",
        "Templates come with models: read this one before you use it. "
        "Or name another: `chat_template:`, such as `chatml`.",
    )


def _drop_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates know keys that are missing, not keys without a value."""
    return {key: value for key, value in message.items() if value is not None}


def _name_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning, under the names by which templates ask for it."""
    names = ("reasoning_content", "thinking", "reasoning")
    found = [message[name] for name in names if message.get(name) is not None]
    if not found:
        return message
    return {"thinking": found[0], **message, "reasoning_content": found[0]}


def _plain(value: Any) -> Any:
    """A copy in the types of JSON: other objects have methods that a stranger's template could call."""
    kind = type(value)
    if kind is str or value is None or kind in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        copied = [_plain(item) for item in value]
        return tuple(copied) if isinstance(value, tuple) else copied
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return int.__int__(value) if isinstance(value, int) else float.__float__(value)
    return f"<{kind.__name__}>"


def probe_template(
    tokenizer: Any, template: str | None, kwargs: Mapping[str, Any], eot_tokens: tuple[str, ...]
) -> Probed:
    """Renders a few conversations, and looks at what is around their contents."""
    specials = {str(token) for token in tokenizer.all_special_tokens} | set(eot_tokens)
    specials |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    eos = str(tokenizer.eos_token or "")
    ends = {eos, *eot_tokens} - {""}
    if template is None:
        return Probed(
            closers=tuple(sorted(ends)), stops=tuple(sorted(ends)), specials=tuple(sorted(specials))
        )
    probe = _Probe(tokenizer, template, kwargs, specials, eos)
    runs = probe.find_runs()
    closers = {run[0] for run in runs} | ends
    stops = {run[-1] for run in runs} | ends
    opening = probe.find_opening()
    return Probed(
        _cut_short(opening),
        probe.find_headers(),
        tuple(sorted(closers)),
        tuple(sorted(stops)),
        tuple(sorted(specials)),
        probe.hides_tools(),
    )


def match_any(tokens: Collection[str]) -> str:
    """A pattern for any of the tokens, the longest first; one that never matches if there are none."""
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return "|".join(re.escape(token) for token in ordered) or r"(?!)"


def _cut_short(opening: str) -> tuple[str, ...]:
    """A generation prompt and what is left of it where a template leaves out its end, such as an opened `<think>`."""
    cuts = [match.end() for match in re.finditer(r">|\n|\]", opening)]
    ends = sorted({len(opening), *cuts}, reverse=True)
    # What remains must still say that an answer begins
    least = opening.find("assistant") if "assistant" in opening else opening.find("model")
    return tuple(
        opening[:end] for end in ends if opening[:end].strip() and (end == len(opening) or end > least >= 0)
    )


def _count_common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1),
        min(len(one), len(other)),
    )


@dataclass(frozen=True)
class _Probe:
    tokenizer: Any
    template: str
    kwargs: Mapping[str, Any]
    specials: Collection[str]
    eos: str

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        """The text; None if the template refuses this order of roles."""
        try:
            return apply_template(self.tokenizer, self.template, messages, **{**self.kwargs, **options})
        except RowError:
            return None

    def find_runs(self) -> list[tuple[str, ...]]:
        """The special tokens that directly follow an answer: one, or several up to the eos token."""
        special = match_any(self.specials)
        pattern = re.compile(rf"(?:first|second) answer\s*((?:{special})+)")
        for messages in (_TALK, (_SYSTEM, *_TALK), _TALK[:2]):
            text = self.render(messages)
            if text is not None:
                found = [re.findall(special, match[1]) for match in pattern.finditer(text)]
                return [
                    tuple(run[: run.index(self.eos) + 1] if self.eos in run else run[:1]) for run in found
                ]
        return []

    def find_opening(self) -> str:
        """The generation prompt; empty if the template has none."""
        for messages in (_TALK[:1], (_SYSTEM, _TALK[0]), _TALK[:3]):
            asked = self.render(messages, add_generation_prompt=True)
            plain = self.render(messages, add_generation_prompt=False)
            if asked is not None and plain is not None:
                return asked[_count_common(asked, plain) :]
        return ""

    def find_headers(self) -> tuple[str, ...]:
        """What stands between the last words before an answer and the answer."""
        called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        result = {"role": "tool", "name": "look_up", "tool_call_id": _CALL["id"], "content": _RESULT}
        chats = (
            (_QUESTION, _TALK[:2]),
            (_QUESTION, (_SYSTEM, *_TALK[:2])),
            (_RESULT, (_TALK[0], called, result, _TALK[1])),
        )
        found = []
        for before, messages in chats:
            text = self.render(messages)
            if text is not None and before in text and _ANSWER in text:
                start, end = text.rindex(before) + len(before), text.rindex(_ANSWER)
                # What the prompt of inference does not have, the model writes
                prompt = self.render(messages[:-1], add_generation_prompt=True) or ""
                if text.startswith(prompt) and start < len(prompt) <= end:
                    end = len(prompt)
                found.append(text[start:end].strip())
        return tuple(dict.fromkeys(header for header in found if header))

    def hides_tools(self) -> bool:
        """Whether tools make no difference."""
        for messages in (_TALK[:1], (_SYSTEM, _TALK[0])):
            with_tools = self.render(messages, tools=[_TOOL])
            if with_tools is not None:
                return with_tools == self.render(messages)
        return False
