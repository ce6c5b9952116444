"""`type: conversations`: the column `conversations`, and a better and a worse answer, rendered by the chat template.

It is the layout of ShareGPT and LLaMA-Factory: messages are `{from, value}` or `{role, content}`.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.pair_formats import build_pair_format
from siredon.data.pair_rows import read_default
from siredon.data.types import Preference, ReadOptions, Row

_COLUMN = "conversations"


def read_conversations(row: Row, options: ReadOptions) -> Preference:
    """The prompt is in `conversations`, or in the column that `field_messages` names."""
    entry = options.entry
    if "field_messages" not in entry.model_fields_set:
        options = replace(options, entry=entry.model_copy(update={"field_messages": _COLUMN}))
    return read_default(row, options)


_FORMAT = build_pair_format(read_default)
FORMAT = replace(_FORMAT, read=read_conversations)
