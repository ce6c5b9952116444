"""Questions in a file -> answers in a file, several at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from siredon.data.types import RowError
from siredon.errors import DataError
from siredon.log import note
from siredon.serve.conversation import fit_length
from siredon.serve.engines.transformers import Engine
from siredon.serve.questions import Batch, Question
from siredon.serve.sampling import Sampling
from siredon.serve.watch import Draft, Stopper, Watch, Writer

#: Messages -> the text after which the model answers; raises `RowError`.
Render = Callable[[Sequence[Any]], str]


@dataclass(frozen=True)
class Asked:
    """A question as the model reads it.

    Args:
        question: The row.
        ids: Tokens of the prompt.
        sampling: How tokens are chosen, with a length that fits.
    """

    question: Question
    ids: tuple[int, ...]
    sampling: Sampling


def answer_batch(engine: Engine, render: Render, batch: Batch, sampling: Sampling) -> int:
    """Answers every question of a file that has no answer yet, and appends the answers in the order of the questions.

    A row of the output is that of the input with `answer`, and `reason`: why it ended, `stop` or `length`.  Groups are
    the same however often the work was stopped, and random numbers follow the seed and the group: so an answer does
    not depend on where it was stopped.

    Args:
        engine: The model.
        render: Messages -> prompt.
        batch: The questions, and where the answers go.
        sampling: How tokens are chosen.

    Returns:
        How many were answered.

    Raises:
        DataError: A question that cannot be asked, by file and line; an output that answers other questions.
    """
    asked = [_phrase(engine, render, question, batch.source, sampling) for question in batch.questions]
    num_done = open_output(batch)
    if num_done:
        note(f"going on: {num_done:,} of {len(asked):,} answers are in {batch.output}")
    size = batch.size
    if sampling.repetition_penalty != 1 and size > 1:
        note("answering one at a time: `repetition_penalty` would count the padding of a batch")
        size = 1
    with batch.output.open("a", encoding="utf-8") as file:
        for start in range(num_done - num_done % size, len(asked), size):
            group = asked[start : start + size]
            seed = None if sampling.seed is None else sampling.seed + start
            drafts = _answer_group(engine, group, replace(sampling, seed=seed))
            for index, (one, draft) in enumerate(zip(group, drafts, strict=True)):
                if start + index >= num_done:
                    row = {**one.question.row, "answer": draft.text.strip(), "reason": draft.reason}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            note(f"{min(start + size, len(asked)):,} of {len(asked):,} answered")
    return len(asked) - num_done


def open_output(batch: Batch) -> int:
    """Makes the output ready to be gone on with: a row that was cut while it was written is taken off.

    Returns:
        The number of answers that are in it.

    Raises:
        DataError: It holds something else than answers to these questions.
    """
    path = batch.output
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines()
    for number, line in enumerate(lines, 1):
        if number > len(batch.questions) or not _answers(line, batch.questions[number - 1].row):
            raise DataError(
                f"{path}:{number}: is no answer to the question in {batch.source}"
                + (f":{batch.questions[number - 1].line}" if number <= len(batch.questions) else ""),
                "Name another `--output`, or move this one away.",
            )
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return len(lines)


def _answers(line: bytes, row: dict[str, Any]) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    if not isinstance(found, dict) or "answer" not in found:
        return False
    return {name: value for name, value in found.items() if name not in ("answer", "reason")} == row


def _phrase(engine: Engine, render: Render, question: Question, source: Path, sampling: Sampling) -> Asked:
    try:
        text = render(question.messages)
        ids = tuple(engine.encode(text))
        return Asked(question, ids, fit_length(engine, len(ids), sampling))
    except RowError as error:
        raise DataError(f"{source}:{question.line}: {error}", "Correct the line, or take it out.") from error
    except DataError as error:
        raise DataError(
            f"{source}:{question.line}: {error.message}", "Shorten the line, or take it out."
        ) from error


def _answer_group(engine: Engine, group: Sequence[Asked], sampling: Sampling) -> list[Draft]:
    """Answers several prompts at a time, padded on the left to the longest of them."""
    length = max(len(one.ids) for one in group)
    pad = engine.tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (length - len(one.ids)) + list(one.ids) for one in group])
    mask = torch.tensor([[0] * (length - len(one.ids)) + [1] * len(one.ids) for one in group])
    longest = max(one.sampling.max_new_tokens for one in group)
    stops = frozenset(engine.stop_ids)
    writers = [
        Writer(engine.tokenizer, one.ids, stops, sampling.stop, one.sampling.max_new_tokens, Watch())
        for one in group
    ]
    for writer in writers:
        writer.begin(1)
    device = engine.model.device
    stopper = Stopper([(writer, 0) for writer in writers])
    engine.generate(ids.to(device), mask.to(device), replace(sampling, max_new_tokens=longest), stopper)
    return [writer.drafts[0] for writer in writers]
