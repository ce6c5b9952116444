"""`type: context_qa`: an article, a question about it, and a short answer.

`context_qa.load` is the same.  `load_v2` reads context, question and answer and says only these words.  `load_404`
reads article and unanswerable_question, and learns to say that the article does not tell.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.columns import read_filled
from siredon.data.instruct import STYLES, Fields, Preamble, Wording, build_instruct, prompt_text
from siredon.data.types import Row, Text

_TASK = "Use the following contextual information to concisely answer the question.\n"
_PREAMBLE = Preamble(_TASK, _TASK)
_UNKNOWN = (
    "The context provided does not contain any information about your inquiry. "
    "Therefore, I'm unable to answer your question based on the given context."
)


def read_article(row: Row) -> Fields:
    """A question that the article answers."""
    question = f"{read_filled(row, 'article')}\n===\n{read_filled(row, 'question')}"
    return Fields(question, read_filled(row, "answer"))


def read_unanswerable(row: Row) -> Fields:
    """A question that the article does not answer."""
    question = f"{read_filled(row, 'article')}\n===\n{read_filled(row, 'unanswerable_question')}"
    return Fields(question, _UNKNOWN)


def read_context(row: Row) -> Fields:
    """Context and question, each behind its name."""
    question = f"Context: {read_filled(row, 'context')}\nQuestion: {read_filled(row, 'question')}\n"
    return Fields(question, f"Answer: {read_filled(row, 'answer')}")


def render_question(text: str) -> Text:
    """A question without context."""
    return prompt_text(f"Question: {text}\n")


_LOAD = build_instruct(read_article, STYLES["chat"], _PREAMBLE)
_V2 = replace(
    build_instruct(read_context, Wording("{instruction}{input}", "{instruction}")), prompt=render_question
)

FORMAT = replace(
    _LOAD,
    variants={
        "load": _LOAD,
        "load_v2": _V2,
        "load_404": build_instruct(read_unanswerable, STYLES["chat"], _PREAMBLE),
    },
)
