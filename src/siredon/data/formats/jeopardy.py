"""`type: jeopardy`: a clue in its category, and its answer as a question; asked like `alpaca`.

The answer is learned as `what is ...`.  Axolotl's source has a preamble of its own for these clues, which it never
uses: the prompt is that of Alpaca there too.
"""

from __future__ import annotations

from siredon.data.columns import read_filled
from siredon.data.instruct import ALPACA, STYLES, Fields, build_instruct, build_styles
from siredon.data.types import Row


def read_clue(row: Row) -> Fields:
    """The clue is the instruction, its category the input."""
    return Fields(
        instruction=read_filled(row, "question"),
        response=f"what is {read_filled(row, 'answer')}",
        context=read_filled(row, "category"),
    )


FORMAT = build_instruct(read_clue, STYLES["instruct"], ALPACA, build_styles(read_clue, ALPACA))
