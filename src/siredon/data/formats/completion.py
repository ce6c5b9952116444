"""`type: completion`: one column of raw text, learned in full; long texts are cut into windows."""

from __future__ import annotations

from siredon.data.columns import read_filled
from siredon.data.instruct import needs_stop, prompt_text
from siredon.data.types import Format, ReadOptions, Row, Span, Text


def read_completion(row: Row, options: ReadOptions) -> Text:
    """The text of `field`, learned, with a stop token at its end."""
    text = read_filled(row, options.entry.field)
    return Text((Span(text, True),), add_eos=needs_stop(text, options), split=True)


FORMAT = Format(read=read_completion, prompt=prompt_text)
