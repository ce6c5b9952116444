"""A conversation -> spans: exactly which characters are learned.

A conversation is rendered twice by the chat template: once as it is, and once with two marker
characters around the content of each message.  If taking the markers out of the second gives the
first, the markers show where each content lies in the text, whatever the template does around it.
If not, the row is refused: no label is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from siredon.config.sections.data import EosPolicy
from siredon.data.types import Conversation, Message, RowError, Span, Text

# Two characters a message from a plane that is reserved for private use.
_MARKS = 0xF0000
_MAX_MESSAGES = 30_000
_MARK = re.compile(f"[{chr(_MARKS)}-{chr(_MARKS + 2 * _MAX_MESSAGES + 1)}]")


class ChatTokenizer(Protocol):
    """The part of a tokenizer of transformers that rendering needs."""

    bos_token: str | None
    eos_token: str | None

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Messages -> text."""


@dataclass(frozen=True)
class Rendered:
    """Text in pieces, and whether a stop token is among what is learned."""

    spans: tuple[Span, ...]
    learns_stop: bool

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True)
class Renderer:
    """Turns what a format read into text; made once per data set.

    Args:
        tokenizer: Renders chat templates.
        template: Jinja source of the chat template; None for formats without one.
        bos: The token a text begins with; empty if the tokenizer adds none.
        eos: The token that ends a text.
        stops: The tokens that end a turn: the eos token, and those of the chat template.
    """

    tokenizer: ChatTokenizer
    template: str | None
    bos: str
    eos: str
    stops: tuple[str, ...]

    @cached_property
    def stop(self) -> re.Pattern[str]:
        """Matches a stop token that directly follows a message."""
        return re.compile(rf"\s*({_alternatives(self.stops)})")

    def render(self, item: Conversation | Text, eos_policy: EosPolicy) -> Rendered:
        """Spans of one row.

        Raises:
            RowError: The template cannot render it, or not so that the learned characters are known.
        """
        if isinstance(item, Text):
            return self._render_text(item)
        return self._render_conversation(item.messages, eos_policy)

    def render_prompt(self, item: Conversation | Text) -> str:
        """The text after which the model answers."""
        if isinstance(item, Text):
            return self._render_text(item).text
        return self._apply([message.properties for message in item.messages], add_generation_prompt=True)

    def _render_text(self, item: Text) -> Rendered:
        spans = item.spans
        if item.add_bos and self.bos:
            spans = (Span(self.bos, False), *spans)
        if item.add_eos and self.eos:
            spans = (*spans, Span(self.eos, True))
        return Rendered(spans, bool(item.add_eos and self.eos) or _ends_learned(item, self.stop))

    def _render_conversation(self, messages: Sequence[Message], eos_policy: EosPolicy) -> Rendered:
        text = self._apply([message.properties for message in messages])
        contents = self._locate_contents(messages, text)
        cuts: list[tuple[int, int]] = []
        stops: list[tuple[int, int]] = []
        # A template may put the system's words into a later turn: the next content is the next in the text.
        order = sorted(range(len(messages)), key=lambda index: (contents[index], index))
        for place, index in enumerate(order):
            message, (start, end) = messages[index], contents[index]
            if message.learn:
                cuts.append((start, end))
            limit = contents[order[place + 1]][0] if place + 1 < len(order) else len(text)
            found = self.stop.match(text, end, limit)
            if found and (message.learn or eos_policy == "all"):
                stops.append(found.span(1))
        kept = {"none": [], "last": stops[-1:], "turn": stops, "all": stops}[eos_policy]
        return Rendered(_cut(text, sorted([*cuts, *kept])), bool(kept))

    def _locate_contents(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where each message's content lies in `text`, as [start, end)."""
        if any(_MARK.search(message.content) for message in messages) or len(messages) > _MAX_MESSAGES:
            raise RowError("holds characters of the private plane U+F0000, which mark messages here")
        whole = [0] * len(messages)
        found = self._locate_marks(messages, whole, text)
        if found is None and any(message.content != message.content.strip() for message in messages):
            # A template that trims: the markers go inside the blanks, message by message.
            inner = [
                int(message.content != message.content.strip() and not self._fits(messages, index, 0, text))
                for index, message in enumerate(messages)
            ]
            found = self._locate_marks(messages, inner, text)
        if found is None:
            number = self._find_rewritten(messages, text)
            raise RowError(
                f"message {number + 1} ({messages[number].role}) is rewritten by the chat template, "
                "so what of it is learned cannot be known exactly"
            )
        return found

    def _find_rewritten(self, messages: Sequence[Message], text: str) -> int:
        """The first message around which no markers fit."""
        fits = (
            any(self._fits(messages, index, mode, text) for mode in (0, 1)) for index in range(len(messages))
        )
        return next((index for index, fit in enumerate(fits) if not fit), 0)

    def _fits(self, messages: Sequence[Message], index: int, mode: int, text: str) -> bool:
        """Whether markers around this message alone, set by `mode`, leave the text as it is."""
        modes = [mode if i == index else 2 for i in range(len(messages))]
        return self._locate_marks(messages, modes, text) is not None

    def _locate_marks(
        self, messages: Sequence[Message], modes: Sequence[int], text: str
    ) -> list[tuple[int, int]] | None:
        """Renders with markers (mode 0: around the content, 1: inside its blanks, 2: none); None if that changes it."""
        marked = [_mark(message, index, modes[index]) for index, message in enumerate(messages)]
        rendered = self._apply(marked)
        pieces, marks, offset, last = [], {}, 0, 0
        for match in _MARK.finditer(rendered):
            pieces.append(rendered[last : match.start()])
            offset += match.start() - last
            if match.group() in marks:
                return None
            marks[match.group()] = offset
            last = match.end()
        pieces.append(rendered[last:])
        expected = [
            chr(_MARKS + 2 * i + side) for i, mode in enumerate(modes) if mode != 2 for side in (0, 1)
        ]
        if "".join(pieces) != text or sorted(marks) != expected:
            return None
        return [
            (marks[chr(_MARKS + 2 * i)], marks[chr(_MARKS + 2 * i + 1)]) if mode != 2 else (0, 0)
            for i, mode in enumerate(modes)
        ]

    def _apply(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        return apply_template(
            self.tokenizer, self.template, messages, add_generation_prompt=add_generation_prompt
        )


def apply_template(
    tokenizer: ChatTokenizer,
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Messages -> text by the chat template, in the sandbox of transformers.

    Raises:
        RowError: The template refuses the messages.
    """
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except (ValueError, TypeError, KeyError, _jinja_error()) as error:
        raise RowError(f"the chat template refuses it: {error}") from error
    assert isinstance(text, str)
    return text


def _jinja_error() -> type[Exception]:
    from jinja2 import TemplateError

    return TemplateError


def build_renderer(tokenizer: Any, template: str | None) -> Renderer:
    """A renderer for `tokenizer` (of transformers) and a chat template (None: no conversations).

    A stop token is the tokenizer's eos token, and whatever special token the template puts directly
    behind what the assistant says.
    """
    specials = {str(token) for token in tokenizer.all_special_tokens}
    specials |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    eos = str(tokenizer.eos_token or "")
    stops = {eos, *_find_stops(tokenizer, template, specials)} - {""}
    ids = tokenizer("").input_ids
    adds_bos = bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    bos = str(tokenizer.bos_token) if adds_bos else ""
    return Renderer(tokenizer, template, bos, eos, tuple(sorted(stops)))


def _find_stops(tokenizer: ChatTokenizer, template: str | None, specials: Collection[str]) -> set[str]:
    """The special tokens that directly follow an answer, in a conversation of two turns each."""
    if template is None:
        return set()
    talk = [
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "second question"},
        {"role": "assistant", "content": "second answer"},
    ]
    pattern = rf"(?:first|second) answer\s*({_alternatives(specials)})"
    for messages in (talk, [{"role": "system", "content": "rules"}, *talk], talk[:2]):
        text = _try_template(tokenizer, template, messages)
        if text is not None:
            return {match.group(1) for match in re.finditer(pattern, text)}
    return set()


def _try_template(
    tokenizer: ChatTokenizer, template: str, messages: Sequence[Mapping[str, Any]]
) -> str | None:
    """The rendered text; None if the template refuses this order of roles."""
    try:
        return apply_template(tokenizer, template, messages)
    except RowError:
        return None


def _alternatives(tokens: Collection[str]) -> str:
    """A pattern for any of the tokens, the longest first; one that never matches if there are none."""
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return "|".join(re.escape(token) for token in ordered) or r"(?!)"


def _mark(message: Message, index: int, mode: int) -> Mapping[str, Any]:
    if mode == 2:
        return message.properties
    left, right = chr(_MARKS + 2 * index), chr(_MARKS + 2 * index + 1)
    content = message.content
    if mode == 1:
        core = content.strip()
        at = content.find(core)
        content = f"{content[:at]}{left}{core}{right}{content[at + len(core) :]}"
    else:
        content = f"{left}{content}{right}"
    return {**message.properties, "content": content}


def _cut(text: str, learned: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    spans, last = [], 0
    for start, end in learned:
        spans += [Span(text[last:start], False), Span(text[start:end], True)]
        last = end
    spans.append(Span(text[last:], False))
    return tuple(span for span in spans if span.text)


def _ends_learned(item: Text, stop: re.Pattern[str]) -> bool:
    return any(span.learn and re.search(rf"{stop.pattern}\s*$", span.text) for span in item.spans)
