"""`type: chatml`: a prompt and two answers in columns, in the words of ChatML whatever `chat_template` says.

`chatml.default` takes the names of columns that are common; `icr`, `intel`, `prompt_pairs` and `ultra` those of data
sets of these names; in `argilla_chat`, both answers repeat the whole conversation.
"""

from __future__ import annotations

from siredon.data.pair_formats import build_words
from siredon.data.templates.chatml import TEMPLATE

FORMAT = build_words(TEMPLATE)
