"""Row 10: an answer is learned from its first token to its stop token, and nothing of the prompt.

The tokenizer has tokens across the border of prompt and answer.  Such a token is the answer's if all that it has of the
prompt is blank; else nothing predicts the rest of it, and it is the prompt's.

Bugs of record: alpaca-lora#306; axolotl#2089.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import (
    Corpus,
    build_chat_tokenizer,
    count_differences,
    list_samples,
    read_plainly,
    read_template,
)
from siredon.selftest.tiny import merge_words

#: Format -> a row, and its answer as it must be learned.  In `segments` the border cuts a token in two.
_ROWS: dict[str, tuple[Mapping[str, Any], str]] = {
    "alpaca": ({"instruction": "Say it. ", "input": "", "output": "the 4 of it"}, "the 4 of it<eos>"),
    "chat_template": (
        {
            "messages": [
                {"role": "user", "content": "Say it:"},
                {"role": "assistant", "content": "the 4: of it "},
            ]
        },
        "the 4: of it <|im_end|>",
    ),
    "input_output": (
        {
            "segments": [
                {"label": False, "text": "Say: "},
                {"label": True, "text": "the name"},
                {"label": False, "text": ". Say 2:"},
                {"label": True, "text": "4 times<eos>"},
            ]
        },
        "the name times<eos>",
    ),
}
#: Words that are one token: a blank or a newline with what follows, and a colon with a figure.
_MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ċ", "the"), (":", "4"))


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Formats: a text with a stop token of its own, a conversation, pieces with their labels."""
    return tuple(Cell(case=name) for name in _ROWS)


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds every label against the characters of its token."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    row, answer = _ROWS[cell.case]
    tokenizer = build_chat_tokenizer(read_template("chatml"))
    merge_words(tokenizer, _MERGES)
    (sample,) = list_samples(Corpus(tokenizer, [row], {"type": cell.case}).prepare(rig))
    plain = read_plainly(tokenizer, tokenizer.decode(sample.input_ids))
    yield "tokens that are not those of the whole text", count_differences(sample.input_ids, plain.ids), 0.0
    learned = plain.cut(sample.labels)
    yield "learned text that is not the answer", float(_squeeze(learned) != _squeeze(answer)), 0.0
    across = [place for place, word in enumerate(plain.words) if word[:1].isspace() and word.endswith("the")]
    yield "tokens across the border that are lost", float(not _holds(sample.labels, across)), 0.0
    wrong = (sample.labels != IGNORE) & (sample.labels != sample.input_ids)
    yield "labels that are not the token at their place", float(np.count_nonzero(wrong)), 0.0


def _holds(labels: Any, places: list[int]) -> bool:
    """Whether one of these tokens is learned."""
    return any(labels[place] != IGNORE for place in places)


def _squeeze(text: str) -> str:
    """The text without the blanks before each word, of which one is the prompt's."""
    return " ".join(text.split())


ROW = Row(
    number=10,
    proves="What is learned is the answer and its stop token, where tokens lie across its border too.",
    cells=list_cells,
    run=run,
)
