"""A conversation -> spans: exactly which characters are learned.

The template renders the whole conversation once.  Of a message that is learned, that text is learned which the
model would have to write: from behind the words that open an answer (the generation prompt) to the token that
ends the turn, with all that the template puts around reasoning and tool calls.  Where that cannot be known, the row
is refused: no label is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from siredon.config.sections.data import EosPolicy
from siredon.data.marks import REASONING, Found, locate_messages
from siredon.data.template_probe import ChatTokenizer, Probed, apply_template, match_any, probe_template
from siredon.data.types import Conversation, Message, RowError, Span, Text

#: The roles that a model answers in.
_ANSWERS = ("assistant", "model")
#: The roles that tell a model what it is.
_RULES = ("system", "developer")


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
class StopPolicy:
    """Which stop tokens are learned: of every turn, of learned turns, of the last of them, or none.

    Args:
        eos: For the tokens that end a turn.
        eot: For those of `eot_tokens`; the same where it is not set.
        eot_tokens: Those tokens.
    """

    eos: EosPolicy = "turn"
    eot: EosPolicy | None = None
    eot_tokens: tuple[str, ...] = ()

    def of(self, token: str) -> EosPolicy:
        """What holds for a token."""
        return (self.eot or self.eos) if token in self.eot_tokens else self.eos

    @property
    def wants_all(self) -> bool:
        """Whether the stop tokens of turns that are not learned count too."""
        return "all" in (self.eos, self.eot)


@dataclass(frozen=True)
class _Region:
    """What of a message the model writes, as positions in the text.

    Args:
        start: Behind the words that open the turn.
        end: Before the stop token.
        stop: Behind the stop token; as `end` if there is none.
        content: Where the content itself lies; None if the template changes it.
        message: The message.
    """

    start: int
    end: int
    stop: int
    content: tuple[int, int] | None
    message: Message


@dataclass(frozen=True)
class Renderer:
    """Turns what a format read into text; made once per data set.

    Args:
        tokenizer: Renders chat templates.
        template: Jinja source of the chat template; None for formats without one.
        bos: The token a text begins with; empty if the tokenizer adds none.
        eos: The token that ends a text.
        probed: What the template puts around messages.
        kwargs: Variables for the template.
        system: The system message of a conversation that has none; empty for none.
    """

    tokenizer: ChatTokenizer
    template: str | None
    bos: str
    eos: str
    probed: Probed
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens that end a turn: the eos token, and those of the chat template."""
        return self.probed.stops

    @cached_property
    def stop(self) -> re.Pattern[str]:
        """Matches the token or tokens that end a turn."""
        opening = match_any(self.probed.closers)
        others = set(self.probed.closers) - {self.eos}
        if self.eos and others:
            # Some templates end a turn with two tokens, the second of which is the eos token
            return re.compile(
                rf"(?:{match_any(others)})(?:{match_any(self.probed.specials)})*?{re.escape(self.eos)}|{opening}"
            )
        return re.compile(opening)

    @cached_property
    def special(self) -> re.Pattern[str]:
        """Matches any special token."""
        return re.compile(match_any(self.probed.specials))

    def render(self, item: Conversation | Text, policy: StopPolicy | EosPolicy = "turn") -> Rendered:
        """Spans of one row.

        Raises:
            RowError: The template cannot render it, or not so that the learned characters are known.
        """
        if isinstance(item, Text):
            rendered = self._render_text(item)
        else:
            policy = policy if isinstance(policy, StopPolicy) else StopPolicy(policy)
            rendered = self._render_conversation(item, policy)
        _check_characters(rendered.text)
        return rendered

    def render_prompt(self, item: Conversation | Text) -> str:
        """The text after which the model answers."""
        if isinstance(item, Text):
            return self._render_text(item).text
        item = with_system(item, self.system)
        return self._apply(
            item, [message.properties for message in item.messages], add_generation_prompt=True
        )

    def _render_text(self, item: Text) -> Rendered:
        spans = item.spans
        if item.add_bos and self.bos:
            spans = (Span(self.bos, False), *spans)
        if item.add_eos and self.eos:
            spans = (*spans, Span(self.eos, True))
        return Rendered(spans, bool(item.add_eos and self.eos) or self._ends_learned(item))

    def _ends_learned(self, item: Text) -> bool:
        return any(
            span.learn and re.search(rf"(?:{self.stop.pattern})\s*$", span.text) for span in item.spans
        )

    def _render_conversation(self, item: Conversation, policy: StopPolicy) -> Rendered:
        item = with_system(item, self.system)
        messages = item.messages
        text = self._apply(item, [message.properties for message in messages])
        self._check_tools(item)
        learned = [index for index, message in enumerate(messages) if message.learn]
        wanted = range(len(messages)) if policy.wants_all else learned
        found = locate_messages(messages, wanted, text, lambda properties: self._apply(item, properties))
        regions = self._find_regions(messages, found, text)
        check_shown(messages, found)
        cuts: list[tuple[int, int]] = []
        for region in regions:
            if region.message.learn:
                cuts += _cut_pieces(region, text)
        kept = _keep_stops(regions, policy, text)
        return Rendered(_cut(text, sorted([*cuts, *kept])), bool(kept))

    def _find_regions(
        self, messages: Sequence[Message], found: Mapping[int, Found], text: str
    ) -> list[_Region]:
        """The regions of the messages that were found, in the order of the text."""
        # A template may put the system's words into a later turn: the next one is the next in the text
        order = sorted(found, key=lambda index: (min(found[index].places), index))
        regions: list[_Region] = []
        bound = 0
        for place, index in enumerate(order):
            following = order[place + 1] if place + 1 < len(order) else None
            limit = len(text) if following is None else min(found[following].places)
            region = self._find_region((index, messages), found[index], text, (bound, limit))
            regions.append(region)
            bound = region.stop
        return regions

    def _find_region(
        self, numbered: tuple[int, Sequence[Message]], found: Found, text: str, bounds: tuple[int, int]
    ) -> _Region:
        index, messages = numbered
        message = messages[index]
        if message.learn and (len(found.left) > 1 or len(found.right) > 1):
            raise RowError(f"message {index + 1} ({message.role}) stands twice in the text of the template")
        first, last = min(found.places), max(found.places)
        content = (found.left[0], found.right[0]) if len(found.left) == 1 and len(found.right) == 1 else None
        before, after = _core_of(messages, index - 1), _core_of(messages, index + 1)
        start = self._find_start(message, text, (bounds[0], first), before)
        if start is None:
            if content is None or found.left[0] > first:
                raise RowError(
                    f"message {index + 1} ({message.role}) is rewritten by the chat template, "
                    "so what of it is learned cannot be known exactly"
                )
            start = _with_blanks_before(message.content, text, content[0])
        # Nor is a token the end of a turn that the message after writes
        said = text.rfind(after, last, bounds[1]) if self.special.search(after) else -1
        stop = self.stop.search(text, last, said if said >= 0 else bounds[1])
        if stop is None:
            end = _with_blanks_after(message.content, text, last)
            return _Region(start, end, end, content, message)
        return _Region(start, stop.start(), stop.end(), content, message)

    def _find_start(self, message: Message, text: str, bounds: tuple[int, int], before: str) -> int | None:
        """Behind the words that open an answer, where they are there and not what the message before says."""
        if message.role not in _ANSWERS:
            return None
        said = text.find(before, *bounds) if before else -1
        last = said + len(before)
        for words in (self.probed.openings, self.probed.headers):
            places = [(text.rfind(word, *bounds), len(word)) for word in words]
            ends = [
                (place, place + size) for place, size in places if place >= 0 and not said <= place < last
            ]
            if ends:
                return max(ends)[1]
        return None

    def _check_tools(self, item: Conversation) -> None:
        if item.tools and self.probed.hides_tools:
            raise RowError("has tools, which the chat template does not show")

    def _apply(
        self,
        item: Conversation,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **self.kwargs}
        if item.tools:
            options["tools"] = list(item.tools)
        return apply_template(self.tokenizer, self.template, messages, **options)


def with_system(item: Conversation, text: str) -> Conversation:
    """The conversation, behind a system message where it has none; `text` is empty for none."""
    if not text or any(message.role in _RULES for message in item.messages):
        return item
    system = Message({"role": "system", "content": text}, "system", text, False)
    return replace(item, messages=(system, *item.messages))


def _core_of(messages: Sequence[Message], index: int) -> str:
    """What a message says, without blanks around it; empty if there is no such message."""
    return messages[index].content.strip() if 0 <= index < len(messages) else ""


def _check_characters(text: str) -> None:
    """Halves of characters, as cut JSON has them, are no text to a tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise RowError(f"holds half a character (U+{code:04X}), which is no text") from None


def check_shown(messages: Sequence[Message], found: Mapping[int, Found]) -> None:
    """Nothing that is learned is left out by the template without a word.

    Raises:
        RowError: A message, its tool calls, or all reasoning of the row.
    """
    thinks = shows = False
    for index, message in enumerate(messages):
        if not message.learn:
            continue
        where = f"message {index + 1} ({message.role})"
        if index not in found:
            raise RowError(f"{where} is left out by the chat template")
        entry = found[index]
        reasons = any(message.properties.get(name) for name in REASONING)
        calls = bool(message.properties.get("tool_calls"))
        if calls and not entry.others:
            raise RowError(f"{where} calls tools, which the chat template does not show")
        if message.content.strip() and not entry.right:
            raise RowError(f"{where} has content, which the chat template leaves out")
        thinks, shows = thinks or reasons, shows or (reasons and bool(entry.others))
    if thinks and not shows:
        raise RowError("has reasoning, which the chat template does not show")


def _cut_pieces(region: _Region, text: str) -> list[tuple[int, int]]:
    """What of a region is learned, by the parts of the content."""
    pieces = region.message.pieces
    if not pieces:
        return [(region.start, region.end)]
    core = region.message.content.strip()
    if region.content is None or text[slice(*region.content)] != core:
        raise RowError(
            "has parts that are learned and others that are not, in a content that the template changes"
        )
    shift = region.content[0] - region.message.content.find(core)
    cuts, start = [], region.start
    for number, (end, learn) in enumerate(pieces, 1):
        place = region.end if number == len(pieces) else min(max(end + shift, start), region.end)
        if learn:
            cuts.append((start, place))
        start = place
    return cuts


def _keep_stops(regions: Sequence[_Region], policy: StopPolicy, text: str) -> list[tuple[int, int]]:
    """The stop tokens that are learned."""
    kept: list[tuple[int, int]] = []
    last: tuple[int, int] | None = None
    for region in regions:
        span = (region.end, region.stop)
        if region.end == region.stop:
            continue
        asked = policy.of(text[slice(*span)])
        pieces = region.message.pieces
        learns = region.message.learn and (not pieces or pieces[-1][1])
        if asked == "all" or (asked == "turn" and learns):
            kept.append(span)
        elif asked == "last" and learns:
            last = span
    return [*kept, last] if last else kept


def _with_blanks_before(content: str, text: str, start: int) -> int:
    """The start of a content, with the blanks that it begins with, if the template left them."""
    blanks = content[: len(content) - len(content.lstrip())]
    return start - len(blanks) if blanks and text[:start].endswith(blanks) else start


def _with_blanks_after(content: str, text: str, end: int) -> int:
    blanks = content[len(content.rstrip()) :]
    return end + len(blanks) if blanks and text.startswith(blanks, end) else end


def _cut(text: str, learned: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    spans, last = [], 0
    for start, end in learned:
        spans += [Span(text[last:start], False), Span(text[start:end], True)]
        last = end
    spans.append(Span(text[last:], False))
    return tuple(span for span in spans if span.text)


def find_bos(tokenizer: Any) -> str:
    """The token that a tokenizer sets before a text; empty if it sets none."""
    ids = tokenizer("").input_ids
    adds_bos = bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return str(tokenizer.bos_token) if adds_bos else ""


def build_renderer(
    tokenizer: Any,
    template: str | None,
    kwargs: Mapping[str, Any] | None = None,
    eot_tokens: Sequence[str] = (),
) -> Renderer:
    """A renderer for `tokenizer` (of transformers) and a chat template (None: no conversations).

    Args:
        tokenizer: The tokenizer.
        template: Jinja source of the chat template.
        kwargs: Variables for the template.
        eot_tokens: Tokens that end a turn, beside those that the template shows.
    """
    eos = str(tokenizer.eos_token or "")
    bos = find_bos(tokenizer)
    probed = probe_template(tokenizer, template, dict(kwargs or {}), tuple(eot_tokens))
    return Renderer(tokenizer, template, bos, eos, probed, dict(kwargs or {}))
