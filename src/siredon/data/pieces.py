"""Tokens -> the text that each of them stands for, for people who look at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from siredon.data.types import IGNORE, Sample

#: What bytes that are no whole character decode to.
_TORN = "\ufffd"
#: A character of UTF-8 has at most four bytes, and a token at least one.
_MOST_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, or several that only together are a character.

    Args:
        ids: Their ids.
        text: What they stand for.
        learned: Whether they are learned.
        special: Whether it is a special token.
        role: Whose words they are.
    """

    ids: tuple[int, ...]
    text: str
    learned: bool
    special: bool
    role: str = ""


class PieceReader:
    """Reads the text of tokens off their ids, so that what is shown is what the model gets.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._pieces: dict[tuple[int, bool], Piece] = {}

    @cached_property
    def specials(self) -> frozenset[int]:
        """Ids of all special tokens."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {
            number for number, token in added if token.special
        }

    @cached_property
    def _anchor(self) -> list[int]:
        """A token to stand before the others: some tokenizers drop the blank that a text begins with."""
        return list(self.tokenizer("a", add_special_tokens=False).input_ids)[-1:]

    @cached_property
    def _anchor_text(self) -> str:
        return self._decode(self._anchor)

    def read(self, sample: Sample) -> Iterator[Piece]:
        """The pieces of a sample, in order; together they have all its tokens."""
        ids, learned = sample.input_ids.tolist(), (sample.labels != IGNORE).tolist()
        start = 0
        while start < len(ids):
            known = self._pieces.get((ids[start], learned[start]))
            if known is None:
                known = self._read_piece(ids, learned, start)
            yield known
            start += len(known.ids)

    def _read_piece(self, ids: list[int], learned: list[bool], start: int) -> Piece:
        end, text = self._read_text(ids, learned, start)
        piece = Piece(tuple(ids[start:end]), text, learned[start], ids[start] in self.specials)
        if _TORN not in self._text_of(ids[start]):
            # Millions of tokens share a few thousand pieces
            self._pieces[ids[start], learned[start]] = piece
        return piece

    def _read_text(self, ids: list[int], learned: list[bool], start: int) -> tuple[int, str]:
        """Where the piece that begins at `start` ends, and its text."""
        first = self._text_of(ids[start])
        found = start + 1, first
        for end in range(start + 2, min(start + _MOST_TOKENS, len(ids)) + 1):
            is_torn = _TORN in first and _TORN in self._text_of(ids[end - 1])
            if not is_torn or learned[end - 1] != learned[start]:
                break
            whole = self._decode_behind_anchor(ids[start:end])
            if _TORN not in whole:
                return end, whole
            if whole == _TORN:  # That character itself, if no more tokens make another one
                found = end, whole
        return found

    def _text_of(self, token_id: int) -> str:
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._decode_behind_anchor([token_id])
        return text

    def _decode_behind_anchor(self, ids: list[int]) -> str:
        text = self._decode(self._anchor + ids)
        return (
            text.removeprefix(self._anchor_text) if text.startswith(self._anchor_text) else self._decode(ids)
        )

    def _decode(self, ids: list[int]) -> str:
        decoded = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(decoded)
