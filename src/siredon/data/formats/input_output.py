"""`type: input_output`: `segments` of `{label, text}`; no template, no special tokens but those in the text."""

from __future__ import annotations

from siredon.data.columns import read_column
from siredon.data.types import Format, ReadOptions, Row, RowError, Span, Text


def read_input_output(row: Row, options: ReadOptions) -> Text:
    """The segments in order; those with `label: true` are learned."""
    segments = read_column(row, "segments")
    if not isinstance(segments, list) or not segments:
        raise RowError("column `segments` holds no list of segments")
    spans = tuple(_read_segment(segment, number, options) for number, segment in enumerate(segments, start=1))
    return Text(spans, add_bos=False, add_eos=False)


def _read_segment(segment: object, number: int, options: ReadOptions) -> Span:
    if not isinstance(segment, dict) or not isinstance(segment.get("text"), str):
        raise RowError(f"segment {number} has no `text`")
    label = segment.get("label")
    if not isinstance(label, bool):
        raise RowError(f"segment {number} has no `label: true` or `label: false`")
    return Span(segment["text"], label or options.train_on_inputs)


def render_prompt(text: str) -> Text:
    """The text as it is."""
    return Text((Span(text, False),), add_bos=False, add_eos=False)


FORMAT = Format(read=read_input_output, prompt=render_prompt, ends=False)
