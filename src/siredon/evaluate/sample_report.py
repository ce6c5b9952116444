"""Pairs before and after a training, for people: two files, and tables of those whose margin moved most."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from siredon.data.inspect_text import show_safely
from siredon.evaluate.figures import show_change, show_figure
from siredon.evaluate.pair_samples import MovedPair, PairSample
from siredon.train.publish import write_whole

SAMPLES, READABLE = "pair_samples.jsonl", "pair_samples.md"
#: Pairs of each direction on the terminal.
_MOST_SHOWN = 3
#: Characters of a text in the readable file.
_MOST_CHARACTERS = 1000


def write_samples(moved: Sequence[MovedPair], folder: Path) -> None:
    """Writes both files; without samples, takes away those of an earlier call, whose results are replaced."""
    if not moved:
        for name in (SAMPLES, READABLE):
            (folder / name).unlink(missing_ok=True)
        return
    lines = (json.dumps(one.record, ensure_ascii=False) + "\n" for one in moved)
    write_whole(folder / SAMPLES, "".join(lines))
    write_whole(folder / READABLE, "\n\n".join(_describe(moved)) + "\n")


def _describe(moved: Sequence[MovedPair]) -> Iterator[str]:
    """The readable file, part by part."""
    yield "# Both sides of pairs, before and after"
    yield f"Texts are cut to {_MOST_CHARACTERS:,} characters; `{SAMPLES}` has them whole."
    for one in moved:
        pair = one.start
        yield f"## {pair.split}, pair {pair.row}, of {pair.source}"
        yield f"Prompt:\n\n{_fence(shorten_start(pair.prompt, _MOST_CHARACTERS))}"
        yield f"Chosen:\n\n{_fence(shorten_end(pair.chosen, _MOST_CHARACTERS))}"
        yield f"Rejected:\n\n{_fence(shorten_end(pair.rejected, _MOST_CHARACTERS))}"
        lines = ["| | start | tuned | difference |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join((name, *_figures(one, name)))} |" for name in pair.measures]
        yield "\n".join(lines)


def _fence(text: str) -> str:
    """A block of text as it is, whatever is in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _figures(one: MovedPair, name: str) -> tuple[str, str, str]:
    """A measure at the start, of the tuned model, and the difference."""
    start, tuned = one.start.measures[name], one.tuned.measures[name]
    return show_figure(start), show_figure(tuned), show_change(tuned - start)


def lay_out_samples(moved: Sequence[MovedPair], room: int) -> Iterator[Any]:
    """Tables of the pairs whose margin rose and fell most, of each split; a direction in which none moved has none.

    Args:
        moved: The samples.
        room: Columns for texts.
    """
    for split in dict.fromkeys(one.start.split for one in moved):
        ours = sorted((one for one in moved if one.start.split == split), key=lambda one: one.change)
        rose = [one for one in reversed(ours) if one.change > 0]
        fell = [one for one in ours if one.change < 0]
        for found, word in ((rose, "rose"), (fell, "fell")):
            if found:
                title = f"{split}: margin {word} most, of {len(ours):,} pairs"
                yield _lay_out(title, found[:_MOST_SHOWN], room)


def _lay_out(title: str, moved: Sequence[MovedPair], room: int) -> Any:
    """Three lines a pair: its prompt with the margin, and either answer with what each model makes of it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(title, no_wrap=True, width=room)
    for name in ("start", "tuned", "difference"):
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    for number, one in enumerate(moved):
        if number:
            table.add_row()
        side = one.start.margin_name
        for name, text in zip((side, *_sides(one.start)), _show_texts(one.start, room), strict=True):
            table.add_row(text, *_figures(one, name))
    return table


def _sides(pair: PairSample) -> tuple[str, str]:
    """The measures of its answers."""
    kind = pair.margin_name.partition("/")[0]
    return f"{kind}/chosen", f"{kind}/rejected"


def _show_texts(pair: PairSample, room: int) -> Iterator[str]:
    """A line each for the prompt, of which the end is shown, and for the answers."""
    for label, text, shorten in (
        (f"{pair.row}: ", pair.plain_prompt, shorten_start),
        ("  chosen: ", pair.chosen, shorten_end),
        ("  rejected: ", pair.rejected, shorten_end),
    ):
        yield label + shorten(show_safely(" ".join(text.split())), max(2, room - len(label)))


def shorten_end(text: str, most: int) -> str:
    """Its first characters, with an ellipsis for what is left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shorten_start(text: str, most: int) -> str:
    """Its last characters, with an ellipsis for what is left out: a prompt ends with what is asked."""
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"
