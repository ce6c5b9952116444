"""`type: bradley_terry.chat_template`: a prompt and two answers for a reward model, rendered by the chat template.

Rows are those of `chat_template.default`, or have the prompt in the column `input` and a system text in `system`.
A column `margin` says by how much the better answer should be ahead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from siredon.data.conversation import MESSAGE_KEYS, TEMPLATE_KEYS
from siredon.data.formats.chat_template import render_prompt
from siredon.data.pair_formats import ANSWER_KEYS
from siredon.data.pair_rows import read_default, read_whole
from siredon.data.types import Format, Preference, ReadOptions, Row, RowError


def read_pair(row: Row, options: ReadOptions) -> Preference:
    """The prompt is in `field_messages`, or where there is no such column in `input`."""
    messages, text = options.entry.field_messages, row.get("input")
    if row.get(messages) is None and isinstance(text, str):
        row = {**row, messages: [{"role": "user", "content": text}]}
        names = options.entry.model_copy(update={"message_property_mappings": {}, "field_messages": messages})
        options = replace(options, entry=names)
    return read_default(row, options)


def with_margin(
    read: Callable[[Row, ReadOptions], Preference],
) -> Callable[[Row, ReadOptions], Preference]:
    """A way to read pairs, and the column `margin` beside them."""

    def read_both(row: Row, options: ReadOptions) -> Preference:
        margin = row.get("margin")
        if margin is None:
            return read(row, options)
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
            raise RowError("column `margin` holds no number")
        return replace(read(row, options), margin=float(margin))

    return read_both


_KEYS = (*ANSWER_KEYS, *MESSAGE_KEYS, *TEMPLATE_KEYS)
_WHOLE = Format(read=with_margin(read_whole), prompt=render_prompt, uses_template=True, reads=_KEYS)
_PAIR = Format(
    read=with_margin(read_pair), prompt=render_prompt, uses_template=True, reads=(*_KEYS, "field_messages")
)
FORMAT = replace(_PAIR, variants={"chat_template": _PAIR, "argilla_chat": _WHOLE})
