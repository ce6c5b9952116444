"""`type: completion`: one column of raw text, learned in full; long texts are cut into windows."""

from __future__ import annotations

from siredon.data.columns import read_text
from siredon.data.types import Format, ReadOptions, Row, RowError, Span, Text


def read_completion(row: Row, options: ReadOptions) -> Text:
    """The text of `field`, learned, with a stop token at its end."""
    text = read_text(row, options.entry.field)
    if not text:
        raise RowError(f"column `{options.entry.field}` is empty")
    return Text((Span(text, True),), split=True)


def render_prompt(text: str) -> Text:
    """The text as it is: the model goes on from it."""
    return Text((Span(text, False),), add_eos=False)


FORMAT = Format(read=read_completion, prompt=render_prompt)
