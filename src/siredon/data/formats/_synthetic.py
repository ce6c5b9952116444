"""`type: _synthetic`: random tokens, all learned, to measure speed and memory with."""

from __future__ import annotations

import numpy as np

from siredon.data.types import IGNORE, Format, ReadOptions, Row, Sample, Span, Text


def read_random(row: Row, options: ReadOptions) -> Sample:
    """`sequence_length` ids, drawn evenly from `min_input_id` up to `max_input_id`; the same for the same `seed`."""
    entry = options.entry
    length = entry.sequence_length or options.max_tokens
    high = entry.max_input_id or options.num_tokens
    generator = np.random.default_rng([entry.seed or 0, int(row["number"])])
    ids = generator.integers(min(entry.min_input_id, high - 1), high, length, dtype=np.int32)
    labels = ids.copy()
    labels[:1] = IGNORE
    return Sample(ids, labels)


def render_prompt(text: str) -> Text:
    """The text as it is."""
    return Text((Span(text, False),), add_eos=False)


FORMAT = Format(read=read_random, prompt=render_prompt, ends=False)
