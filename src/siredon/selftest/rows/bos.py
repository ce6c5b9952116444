"""Row 6: a text begins with one bos token, or with none where its template has none, in training as at inference.

Bugs of record: unsloth#10312; NeMo RL#855; sglang#888.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.data.types import Ids
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import (
    TALK,
    Corpus,
    build_chat_tokenizer,
    count_differences,
    list_samples,
    read_plainly,
    read_template,
    show_plainly,
    template_cells,
)

#: Formats without a template -> a row of theirs.
_TEXTS: dict[str, dict[str, str]] = {
    "alpaca": {"instruction": "Say it.", "output": "It."},
    "completion": {"text": "It is said."},
}

#: A format of the shelf has no token that ends a turn.
_TALKS = {"type": "chat_template", "train_on_eos": "none"}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Every template, and formats without one."""
    return template_cells(grid) + tuple(Cell(case=f"type: {name}") for name in _TEXTS)


def run(rig: Rig, cell: Cell) -> Finding:
    """Counts bos tokens, with a tokenizer that adds one and with one that does not."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    name = cell.case.removeprefix("type: ")
    for adds_bos in (False, True):
        note = ", the tokenizer adds one" if adds_bos else ""
        if name in _TEXTS:
            tokenizer = build_chat_tokenizer(adds_bos=adds_bos)
            source, wanted = Corpus(tokenizer, [_TEXTS[name]], {"type": name}), int(adds_bos)
        else:
            tokenizer = build_chat_tokenizer(read_template(name), adds_bos=adds_bos)
            wanted = int(show_plainly(tokenizer, TALK).startswith(tokenizer.bos_token))
            source = Corpus(tokenizer, [{"messages": TALK[:2]}], _TALKS)
        (sample,) = list_samples(source.prepare(rig))
        count = _count_leading(sample.input_ids, tokenizer)
        yield f"bos tokens too many or too few{note}", float(abs(count - wanted)), 0.0
        yield (
            f"prompt of inference that training does not begin with{note}",
            _compare(sample.input_ids, source),
            0.0,
        )


def _count_leading(ids: Ids, tokenizer: Any) -> int:
    """Bos tokens at the start, and any later on."""
    return int((ids == tokenizer.bos_token_id).sum())


def _compare(ids: Ids, source: Corpus) -> float:
    """How many tokens of the prompt of inference are not those that training begins with.

    Where a template shows an answer otherwise than it asks for one, the bos tokens alone are compared.
    """
    (row,) = source.rows
    asked = row["messages"][0]["content"] if "messages" in row else row.get("instruction", "It is")
    prompt = read_plainly(source.tokenizer, source.build_prompting().render(asked))
    if not source.tokenizer.decode(ids).startswith(prompt.text):
        return float(
            abs(_count_leading(prompt.ids, source.tokenizer) - _count_leading(ids, source.tokenizer))
        )
    return count_differences(ids[: len(prompt.ids)], prompt.ids)


ROW = Row(
    number=6,
    proves="A text begins with exactly the bos tokens that its template implies, as it does at inference.",
    cells=list_cells,
    run=run,
)
