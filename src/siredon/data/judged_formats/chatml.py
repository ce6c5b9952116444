"""`type: chatml.intel`: a question, an answer and a judgement in columns, in the words of ChatML.

The question is in `instruction` (`argilla`), `question` (`intel`) or `prompt` (`prompt_pairs`, `ultra`); in
`argilla_chat` the answer repeats the whole conversation.  The name alone is `prompt_pairs`.
"""

from __future__ import annotations

from siredon.data.judged_layouts import LAYOUTS, build_judged_format, build_words
from siredon.data.templates.chatml import TEMPLATE

FORMAT = build_judged_format(LAYOUTS["prompt_pairs"], TEMPLATE, build_words(TEMPLATE))
