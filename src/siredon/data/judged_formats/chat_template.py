"""`type: chat_template.default`: messages, one answer to them, and whether it is good, by the chat template.

A row without a column for the answer has it as its last message.
"""

from __future__ import annotations

from siredon.data.formats.chat_template import render_prompt
from siredon.data.judged_rows import read_conversation
from siredon.data.types import Format, Judged, ReadOptions, Row


def read_default(row: Row, options: ReadOptions) -> Judged:
    """The prompt is in `field_messages`, the answer in `field_completion`, the judgement in `field_label`."""
    entry = options.entry
    return read_conversation(row, options, entry.field_messages, entry.field_completion, entry.field_label)


_DEFAULT = Format(read=read_default, prompt=render_prompt, uses_template=True)
FORMAT = Format(read=read_default, prompt=render_prompt, uses_template=True, variants={"default": _DEFAULT})
