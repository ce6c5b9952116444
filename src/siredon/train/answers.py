"""Rows -> prompts, references, and what the model writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siredon.data.collate import PackDataset
from siredon.data.types import IGNORE, Sample
from siredon.errors import DataError
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


def read_questions(packs: PackDataset, tokenizer: Any, limit: int | None = None) -> list[Question]:
    """Prompts and references of the first rows: the last thing that is learned of a row is its answer.

    Args:
        packs: The rows, packed or not.
        tokenizer: Of the model.
        limit: How many rows; None for all.

    Raises:
        DataError: All of every row is learned, so nothing is a prompt.
    """
    found = []
    for number, index in enumerate(packs.packs.indices[:limit]):
        sample = packs.table[int(index)]
        begin, end = find_last_answer(sample)
        # A first token that stands alone is no prompt: it only begins the text
        if begin > 1 and begin < end:
            ids = [int(token) for token in sample.input_ids]
            reference = tokenizer.decode(ids[begin:end], skip_special_tokens=True).strip()
            found.append(Question(number, sample.source, ids[:begin], reference))
    if not found:
        raise DataError(
            "no row that is to be answered has a prompt: all of each row is learned",
            "Judge by the loss alone, or on rows with a question and an answer.",
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
    model: Any, tokenizer: Any, questions: Sequence[Question], batch_size: int, **options: Any
) -> Iterator[list[Answer]]:
    """What the model writes, the likeliest token each time, a batch at a time: the longest prompts first.

    Prompts of like length share a batch, and are filled up to the left, where the attention mask hides it.

    Args:
        model: A model of transformers, or PEFT's wrapper around one, on its device, ready to write.
        tokenizer: Of the model.
        questions: The prompts.
        batch_size: How many are answered at a time.
        options: What `generate` takes, such as `max_new_tokens`.
    """
    order = sorted(questions, key=lambda question: -len(question.prompt_ids))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        written = _write(model, tokenizer, [question.prompt_ids for question in batch], options)
        yield [Answer(question, text) for question, text in zip(batch, written, strict=True)]


def _write(model: Any, tokenizer: Any, prompts: list[list[int]], options: dict[str, Any]) -> Iterator[str]:
    longest = max(map(len, prompts))
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(prompts), longest), pad_id or 0)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        pad_token_id=pad_id,
        use_cache=True,
        **GREEDY,
        **options,
    )
    for row in output[:, longest:]:
        yield tokenizer.decode(row, skip_special_tokens=True).strip()
