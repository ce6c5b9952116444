"""Rows -> prompts, references, and what the model writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siredon.data.types import IGNORE, Sample
from siredon.errors import DataError
from siredon.evaluate.candidates import Candidate
from siredon.evaluate.rows import Rows
from siredon.train.continuation import GREEDY


@dataclass(frozen=True)
class Question:
    """A row that the model is to answer.

    Args:
        row: Number of the row in its split, from 0.
        source: Number of its data set.
        prompt_ids: What is given, shape [T].
        reference: What the row has in the place of the answer, without special tokens.
    """

    row: int
    source: int
    prompt_ids: list[int]
    reference: str


@dataclass(frozen=True)
class Answer:
    """A question, and what the model wrote."""

    question: Question
    text: str


def read_questions(rows: Rows, tokenizer: Any, limit: int | None) -> list[Question]:
    """Prompts and references of the first rows: the last thing that is learned of a row is its answer.

    Raises:
        DataError: All of every row is learned, so nothing is a prompt.
    """
    found = []
    for number, index in enumerate(rows.packs.packs.indices[:limit]):
        sample = rows.packs.table[int(index)]
        begin, end = find_last_answer(sample)
        # A first token that stands alone is no prompt: it only begins the text
        if begin > 1 and begin < end:
            ids = [int(token) for token in sample.input_ids]
            reference = tokenizer.decode(ids[begin:end], skip_special_tokens=True).strip()
            found.append(Question(number, sample.source, ids[:begin], reference))
    if not found:
        raise DataError(
            f"no {rows.split} row has a prompt: all of each row is learned",
            "Leave `--metric` out, or judge on rows with a question and an answer.",
        )
    return found


def find_last_answer(sample: Sample) -> tuple[int, int]:
    """Where the last stretch of learned tokens begins and ends; both are 0 where nothing is learned."""
    learned = np.flatnonzero(sample.labels != IGNORE)
    if not len(learned):
        return 0, 0
    gaps = np.flatnonzero(np.diff(learned) > 1)
    begin = learned[gaps[-1] + 1] if len(gaps) else learned[0]
    return int(begin), int(learned[-1]) + 1


def answer_questions(
    candidate: Candidate, questions: Sequence[Question], batch_size: int, max_new_tokens: int
) -> list[Answer]:
    """What the model writes, the likeliest token each time, in the order of the questions.

    Prompts of like length share a batch, and are filled up to the left, where the attention mask hides it.
    """
    order = sorted(range(len(questions)), key=lambda place: -len(questions[place].prompt_ids))
    texts: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        written = _write(candidate, [questions[place].prompt_ids for place in places], max_new_tokens)
        texts |= dict(zip(places, written, strict=True))
    return [Answer(question, texts[place]) for place, question in enumerate(questions)]


def _write(candidate: Candidate, prompts: list[list[int]], max_new_tokens: int) -> Iterator[str]:
    tokenizer, model = candidate.tokenizer, candidate.model
    longest = max(map(len, prompts))
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(prompts), longest), pad_id or 0)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if candidate.precision.autocast is not None:
            dtype = torch.bfloat16 if candidate.precision.autocast == "bf16" else torch.float16
            stack.enter_context(torch.autocast(model.device.type, dtype=dtype))
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(candidate.stop_ids) or None,
            pad_token_id=pad_id,
            use_cache=True,
            **GREEDY,
        )
    for row in output[:, longest:]:
        yield tokenizer.decode(row, skip_special_tokens=True).strip()
