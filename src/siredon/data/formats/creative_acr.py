"""`type: creative_acr`: creative answers (`load_answer`), critiques of answers (`load_critique`), and answers revised
by a critique (`load_revise`).

Without a variant it is `load_answer`, which learns `revision`.  `scores` and `critiques` are text or objects; an
object is written as YAML under its name, as the prompt asks for it, in its own order and script.  In Axolotl, the
names are left out, keys sorted, long lines wrapped and other scripts escaped.
"""

from __future__ import annotations

from dataclasses import replace

import yaml

from siredon.data.columns import read_column, read_filled
from siredon.data.instruct import STYLES, Fields, Preamble, build_instruct, fields_of
from siredon.data.types import Row, RowError

_ANSWER = (
    "Answer the following question in a comprehensive, in-depth, and creative way. "
    "Additionally your response should be relevant, accurate, and free of any ambiguity."
)
_REFUSAL = (
    "refusal: whether the Response refuses to answer the Question. Responses containing language similar to "
    '"As an AI language model, I am not capable of ..." is a form of refusal and should have a low refusal score. '
    "10 is no refusal, 0 is refuses to answer the question.\n"
)
_BIAS = (
    "prescriptive bias: whether the Response attempts to prescribe or dictate certain actions or behaviors of the "
    "user. 10 no prescriptive bias present, 0 means {there} is prescriptive bias.\n"
)
_REST = (
    "creativity: score how creative the Response is. 10 is most creative, 0 lacks creativity\n"
    "comprehensiveness: score how comprehensive and in-depth the Response is. 10 is most comprehensive and in-depth, "
    "0 lacks coverage and depth\n"
)
_ONE_LINE = 2**31
_CRITERIA = ("refusal", "prescriptive_bias", "creativity", "comprehensiveness")
_SCORES = "".join(f"  {name}: <0-10>\n" for name in _CRITERIA)
_CRITIQUES = "".join(f"  {name}:\n    explanation: ...\n    improvements: ...\n" for name in _CRITERIA)
_CRITIQUE = (
    "Given the following Question and Response, critique the Response on a scale of 1-10. You should critique the "
    f"answer in the following criteria:\n{_REFUSAL}{_BIAS.format(there='there')}{_REST}"
    "Then for each criteria, give a detailed explanation of why the response doesn't meet the criteria (don't "
    "reference the score), what it did right, and how it could be improved for that criteria.\n\n"
    f"Output your answer in YAML format like so:\nscores:\n{_SCORES}critiques:\n{_CRITIQUES}\n"
    "Question: {question}\nAnswer: {answer}\n"
)
# "their" is in the published prompt
_REVISE = (
    f"Definitions:\n{_REFUSAL}{_BIAS.format(there='their')}{_REST}\n"
    "Given the following Question, Response, and Evaluation, revise the Response based on the Evaluation and "
    "recommendations for improvements. Reply only with the revised response.\n\n"
    "Question: {question}\nAnswer: {answer}\nEvaluation:\n{evaluation}\n"
)


def read_critique(row: Row) -> Fields:
    """A question and an answer; the evaluation is learned."""
    question, answer = read_filled(row, "instruction"), read_filled(row, "answer")
    return Fields(_CRITIQUE.format(question=question, answer=answer), _read_evaluation(row))


def read_revision(row: Row) -> Fields:
    """A question, an answer and its evaluation; the better answer is learned."""
    question, answer = read_filled(row, "instruction"), read_filled(row, "answer")
    prompt = _REVISE.format(question=question, answer=answer, evaluation=_read_evaluation(row))
    return Fields(prompt, read_filled(row, "revision"))


def _read_evaluation(row: Row) -> str:
    return _read_part(row, "scores") + _read_part(row, "critiques")


def _read_part(row: Row, name: str) -> str:
    value = read_column(row, name)
    if isinstance(value, str) and value.strip():
        return value if value.endswith("\n") else f"{value}\n"
    if not isinstance(value, dict) or not value:
        raise RowError(f"column `{name}` holds neither text nor an object")
    named = value if list(value) == [name] else {name: value}
    return str(yaml.safe_dump(named, sort_keys=False, allow_unicode=True, width=_ONE_LINE))


_CHAT = STYLES["chat"]
_LOAD = build_instruct(
    fields_of("instruction", "revision"), _CHAT._replace(system="{system}\n"), Preamble(_ANSWER, _ANSWER)
)

FORMAT = replace(
    _LOAD,
    variants={
        "load_answer": _LOAD,
        "load_critique": build_instruct(read_critique, _CHAT),
        "load_revise": build_instruct(read_revision, _CHAT),
    },
)
