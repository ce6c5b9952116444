"""Tokens -> text while they are being chosen: pieces of it, where it ends, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import StoppingCriteria

Reason = Literal["stop", "length", "cancelled", "timeout"]
#: Tokens of the prompt that are decoded before the first new one, as some tokenizers drop a blank at the beginning.
_CONTEXT = 5
_HALF = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """What came to an answer.

    Args:
        index: Which answer, from 0.
        text: Its next words; empty where it has only ended.
        reason: Why it ended; None while it goes on.
    """

    index: int
    text: str
    reason: Reason | None = None


@dataclass
class Draft:
    """An answer that is being written.

    Args:
        ids: The end of the prompt, and the new tokens.
        done: So many of `ids` have become text.
        start: From here on they are decoded to see what the next one adds.
        num_tokens: New tokens, the one that ended it counted.
        held: Text that may be the beginning of a stop text.
        text: The text that was handed on.
        reason: Why it ended.
    """

    ids: list[int]
    done: int
    start: int = 0
    num_tokens: int = 0
    held: str = ""
    text: str = ""
    reason: Reason | None = None


@dataclass(frozen=True)
class Watch:
    """Who looks at the answers while they are written.

    Args:
        on_piece: Gets each piece as soon as no stop text can begin in it.
        find_end: Says why all answers are to end now; None to go on.
    """

    on_piece: Callable[[Piece], None] | None = None
    find_end: Callable[[], Reason | None] | None = None


@dataclass
class Writer:
    """Turns the tokens of several answers to one prompt into text.

    Args:
        tokenizer: Of transformers.
        prompt: Tokens of the prompt.
        stop_ids: Tokens that end an answer.
        stop: Texts before which an answer ends.
        limit: Most tokens of an answer.
        watch: Who looks at it.
    """

    tokenizer: Any
    prompt: Sequence[int]
    stop_ids: frozenset[int]
    stop: tuple[str, ...]
    limit: int
    watch: Watch
    drafts: list[Draft] = field(default_factory=list)

    def begin(self, num_answers: int) -> None:
        """Makes room for the answers."""
        context = list(self.prompt[-_CONTEXT:])
        self.drafts = [Draft(list(context), len(context)) for _ in range(num_answers)]

    def take(self, index: int, token: int) -> None:
        """Adds a token to an answer that has not ended."""
        draft = self.drafts[index]
        draft.num_tokens += 1
        if token in self.stop_ids:
            self._end(index, "stop")
            return
        draft.ids.append(token)
        self._say(index, self._decode(draft))
        if draft.reason is None and draft.num_tokens >= self.limit:
            self._end(index, "length")

    def end_all(self, reason: Reason) -> None:
        """Ends what has not ended."""
        for index, draft in enumerate(self.drafts):
            if draft.reason is None:
                self._end(index, reason)

    def _decode(self, draft: Draft, *, whole: bool = False) -> str:
        """The text that the newest tokens add; none while they are half a character."""
        before = self._text(draft.ids[draft.start : draft.done])
        now = self._text(draft.ids[draft.start :])
        if len(now) <= len(before) or (now.endswith(_HALF) and not whole):
            return ""
        draft.start, draft.done = draft.done, len(draft.ids)
        return now[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _say(self, index: int, new: str) -> None:
        draft = self.drafts[index]
        text = draft.held + new
        found = [place for place in (text.find(word) for word in self.stop) if place >= 0]
        if found:
            draft.held = ""
            self._hand_on(index, text[: min(found)], "stop")
            return
        kept = count_beginning(text, self.stop)
        draft.held = text[len(text) - kept :]
        self._hand_on(index, text[: len(text) - kept], None)

    def _end(self, index: int, reason: Reason) -> None:
        draft = self.drafts[index]
        self._say(index, self._decode(draft, whole=True))
        if draft.reason is None:
            text, draft.held = draft.held, ""
            self._hand_on(index, text, reason)

    def _hand_on(self, index: int, text: str, reason: Reason | None) -> None:
        draft = self.drafts[index]
        draft.text += text
        draft.reason = reason
        if self.watch.on_piece and (text or reason):
            self.watch.on_piece(Piece(index, text, reason))


class Stopper(StoppingCriteria):  # type: ignore[misc, unused-ignore]
    """Hands each step of `generate` to the writers of its rows, and says which answers have ended.

    Args:
        rows: Of each row its writer, and which of that one's answers it is.
    """

    def __init__(self, rows: Sequence[tuple[Writer, int]]) -> None:
        self.rows = rows
        self.writers = list({id(writer): writer for writer, _ in rows}.values())

    @classmethod
    def of(cls, writer: Writer) -> Stopper:
        """For the answers to one prompt."""
        return cls([(writer, index) for index in range(len(writer.drafts))])

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Takes the newest tokens.

        Args:
            input_ids: (rows, prompt and tokens so far).
            scores: Not looked at.
            kwargs: Not looked at.

        Returns:
            (rows,): whether each has ended.
        """
        for (writer, index), token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if writer.drafts[index].reason is None:
                writer.take(index, token)
        for writer in self.writers:
            end = writer.watch.find_end() if writer.watch.find_end else None
            if end:
                writer.end_all(end)
        ended = [writer.drafts[index].reason is not None for writer, index in self.rows]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


def count_beginning(text: str, words: Sequence[str]) -> int:
    """The length of the longest end of `text` with which one of `words` begins."""
    longest = max((len(word) for word in words), default=0) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-size:]) for word in words):
            return size
    return 0
