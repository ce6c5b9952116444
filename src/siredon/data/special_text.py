"""Text of special tokens in what rows say.

A tokenizer makes the token of it whoever wrote it, in training as at inference: a user who writes `<|im_end|>` ends
the turn.  It is left as it is, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from siredon.data.types import Conversation, Row, Text


def find_special(item: Conversation | Text, row: Row, text: str, special: re.Pattern[str]) -> str | None:
    """The first special token whose text a row itself holds; None if there is none.

    Args:
        item: What was read of the row.
        row: The row.
        text: What was rendered of it.
        special: Matches the special tokens.
    """
    if isinstance(item, Conversation):
        parts = [*(message.properties for message in item.messages), *(item.tools or ())]
        return _search(_strings(parts), special)
    if not (item.add_bos or item.add_eos):
        return None  # Such a row writes its own template
    # A format puts special tokens around texts of the row, and may leave columns out
    shown = (string for string in _strings(row) if special.search(string) and string.strip() in text)
    return _search((_without_last(string, special) for string in shown), special)


def _without_last(text: str, special: re.Pattern[str]) -> str:
    """The text without a special token at its end, which stands for the one that would be added."""
    *_, last = special.finditer(text)
    return text[: last.start()] if last.end() == len(text.rstrip()) else text


def _search(texts: Iterator[str], special: re.Pattern[str]) -> str | None:
    return next((match.group() for text in texts if (match := special.search(text))), None)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value; names of keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _strings(inner)
