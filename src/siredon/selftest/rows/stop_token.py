"""Row 8: the token on which an answer ends is learned in each turn, and inference stops on it.

Bugs of record: axolotl#3754, #2287, #1916.
"""

from __future__ import annotations

from collections.abc import Iterator

from siredon.errors import DataError
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Row, find
from siredon.selftest.talks import (
    TALK,
    Corpus,
    build_chat_tokenizer,
    count_differences,
    prepare_talk,
    read_plainly,
    read_template,
    show_plainly,
    template_cells,
)


def run(rig: Rig, cell: Cell) -> Finding:
    """Looks behind each answer for the token that ends it, in what transformers alone makes of the talk."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    tokenizer = build_chat_tokenizer(read_template(cell.case))
    plain = read_plainly(tokenizer, show_plainly(tokenizer, TALK))
    answers = [message["content"] for message in TALK if message["role"] == "assistant"]
    ends = [plain.find_special(plain.text.index(answer) + len(answer)) for answer in answers]
    if ends[-1] is None:  # A format without a token that ends a turn
        yield "taken, though nothing ends a turn", _is_taken(rig, tokenizer), 0.0
        return
    sample = prepare_talk(rig, tokenizer, TALK)
    stop_ids = Corpus(tokenizer, ()).build_prompting().stop_ids
    yield "tokens that are not those of transformers", count_differences(sample.input_ids, plain.ids), 0.0
    found = [end for end in ends if end is not None]
    yield (
        "ends of turns without a label",
        float(sum(sample.labels[end] != plain.ids[end] for end in found)),
        0.0,
    )
    deaf = [end for end in found if int(plain.ids[end]) not in stop_ids]
    yield "ends of turns on which inference does not stop", float(len(deaf)), 0.0


def _is_taken(rig: Rig, tokenizer: object) -> float:
    try:
        prepare_talk(rig, tokenizer, TALK)
    except DataError:
        return 0.0
    return 1.0


ROW = Row(
    number=8,
    proves="The token that ends an answer is learned in every turn, and inference stops on it.",
    cells=template_cells,
    run=run,
)
