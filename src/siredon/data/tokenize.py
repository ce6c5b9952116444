"""Spans -> samples: the text is tokenized once, whole, and each token belongs to one span.

A token that lies across the border of two spans belongs to the one that holds its first character
that is no blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siredon.data.render import Rendered
from siredon.data.types import IGNORE, RowError, Sample

Offsets = npt.NDArray[np.int64]


def tokenize_rendered(tokenizer: Any, rows: Sequence[Rendered]) -> list[Sample | RowError]:
    """Tokenizes rows together, on all cores.

    Args:
        tokenizer: A tokenizer of transformers.
        rows: What was rendered; special tokens stand in the text.

    Returns:
        One sample per row, not cut; an error for a row whose tokens cannot be assigned to characters.
    """
    if not tokenizer.is_fast:
        return [_tokenize_slowly(tokenizer, row) for row in rows]
    tokenizer("")  # takes back truncation and padding that its file may ask for
    texts = [row.text for row in rows]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [_label(encoding, row, text) for encoding, row, text in zip(encodings, rows, texts, strict=True)]


def _label(encoding: Any, row: Rendered, text: str) -> Sample:
    """Looks only at the tokens around the borders of learned spans."""
    ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full(len(ids), IGNORE, dtype=np.int32)
    place, first, learns = 0, 0, False
    for span in row.spans:
        if span.learn != learns:
            border = _find_border(encoding, place, text, len(ids))
            if learns:
                labels[first:border] = ids[first:border]
            first, learns = border, span.learn
        place += len(span.text)
    if learns:
        labels[first:] = ids[first:]
    labels[:1] = IGNORE  # nothing predicts it
    return Sample(ids, labels)


def _find_border(encoding: Any, place: int, text: str, num_tokens: int) -> int:
    """The first token that belongs to what begins at a place in the text."""
    if place == 0:
        return 0
    token = None
    for char in range(place, len(text)):  # a tokenizer may have dropped some blanks
        token = encoding.char_to_token(char)
        if token is not None:
            break
    if token is None:
        return num_tokens
    while token < num_tokens:
        span = encoding.token_to_chars(token)
        if span is None or span[0] >= place:
            break
        start, end = span
        blanks = end - start - len(text[start:end].lstrip())
        if min(start + blanks, end - 1) >= place:
            break
        token += 1
    return int(token)


def _tokenize_slowly(tokenizer: Any, row: Rendered) -> Sample | RowError:
    """For a tokenizer without offsets: each token ends where the text decoded so far does."""
    text = row.text
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    ends = [0]
    for count in range(1, len(ids) + 1):
        decoded = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # Bytes of a character that is not whole yet decode to U+FFFD, or to nothing
        matches = decoded.rstrip("\ufffd")
        if not text.startswith(matches):
            break
        ends.append(max(ends[-1], len(matches)))
    if len(ends) != len(ids) + 1 or ends[-1] != len(text):
        return RowError(
            "its tokens do not decode to its text, so labels cannot be exact with this slow tokenizer"
        )
    array = np.asarray(ids, dtype=np.int32)
    return label_by_offsets(array, np.array([ends[:-1], ends[1:]], dtype=np.int64).T, row)


def label_by_offsets(ids: npt.NDArray[np.int32], offsets: Offsets, row: Rendered) -> Sample:
    """Labels from the characters of every token.

    Args:
        ids: Token ids, shape [T].
        offsets: First character of each token, and the one behind its last, shape [T, 2].
        row: What was tokenized.
    """
    text = row.text
    ends = np.cumsum([len(span.text) for span in row.spans])
    learn = np.array([span.learn for span in row.spans], dtype=bool)
    first = np.searchsorted(ends, offsets[:, 0], side="right")
    last = np.searchsorted(ends, np.maximum(offsets[:, 1] - 1, offsets[:, 0]), side="right")
    owner = np.minimum(first, len(learn) - 1)
    for index in np.nonzero(first < last)[0]:
        start, end = offsets[index]
        blanks = end - start - len(text[start:end].lstrip())
        owner[index] = np.searchsorted(ends, min(start + blanks, end - 1), side="right")
    labels = np.where(learn[owner], ids, IGNORE).astype(np.int32)
    labels[:1] = IGNORE
    return Sample(ids, labels)
