"""`type: llama3`: a prompt and two answers in columns, in the words of Llama 3 whatever `chat_template` says.

Its variants are those of `chatml`.  In Axolotl, nothing is trimmed; the template of Llama 3 trims what is said.
"""

from __future__ import annotations

from siredon.data.pair_formats import build_words
from siredon.data.templates.llama3 import TEMPLATE

FORMAT = build_words(TEMPLATE)
