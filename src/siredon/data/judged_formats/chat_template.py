"""`type: chat_template`: messages, one answer to them, and whether it is good, by the chat template.

`chat_template.default` is the same.  A row without a column for the answer has it as its last message.  `argilla`,
`argilla_chat`, `intel`, `prompt_pairs` and `ultra` read the columns of data sets of these names.
"""

from __future__ import annotations

from siredon.data.judged_layouts import build_judged_format, build_words, read_default

FORMAT = build_judged_format(
    read_default, variants={"default": build_judged_format(read_default), **build_words(None)}
)
