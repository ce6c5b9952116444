"""Whose words stand where in a rendered conversation: what the system, the user, the model and its tools say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siredon.data.marks import Found, locate_messages
from siredon.data.pieces import Piece
from siredon.data.render import Renderer
from siredon.data.samples import Recipe
from siredon.data.template_probe import apply_template
from siredon.data.types import Conversation, ReadOptions, Row, RowError

#: What the template says by itself, such as a system message of its own.
TEMPLATE = "template"


@dataclass(frozen=True)
class Voices:
    """Who speaks in a text.

    Args:
        text: The text.
        ends: Ends of parts of the text, ascending, each with whose words they are.
    """

    text: str
    ends: tuple[tuple[int, str], ...]


def find_voices(recipe: Recipe, row: Row, text: str) -> Voices | None:
    """Who speaks in a row; None where it is no conversation, or where that cannot be known.

    What the template puts around a message belongs to that message.

    Args:
        recipe: What rendered the row.
        row: The row.
        text: The row, rendered.
    """
    renderer = recipe.renderer
    try:
        options = ReadOptions(recipe.entry, recipe.data.train_on_inputs, renderer.bos, renderer.eos)
        item = recipe.format.read(row, options)
        if not isinstance(item, Conversation):
            return None
        found = _locate(item, renderer, text)
    except RowError:
        return None
    return Voices(text, tuple(_find_ends(item, found, renderer, text)))


def name_roles(pieces: Sequence[Piece], voices: Voices | None) -> tuple[Piece, ...]:
    """The pieces of a sample, each with whose words it is; `prompt` or `response` where only that is known.

    Args:
        pieces: The pieces, from the beginning of the text.
        voices: Who speaks in the text.
    """
    joined = "".join(piece.text for piece in pieces)
    # The decoder of some tokenizers puts a blank before everything
    shift = 1 if voices and joined.startswith(" ") and not voices.text.startswith(" ") else 0
    if voices is None or not voices.text.startswith(joined[shift:]):
        return tuple(replace(piece, role="response" if piece.learned else "prompt") for piece in pieces)
    known: dict[tuple[int, str], Piece] = {}
    named, place, turn = [], -shift, 0
    for piece in pieces:
        # A token that lies across a border is named by its first character that is no blank
        blanks = len(piece.text) - len(piece.text.lstrip()) if piece.text.strip() else 0
        first = max(place, 0) + blanks
        while turn + 1 < len(voices.ends) and first >= voices.ends[turn][0]:
            turn += 1
        role = voices.ends[turn][1]
        key = (id(piece), role)  # A piece that stands in many places is one object, and slow to hash
        if key not in known:
            known[key] = replace(piece, role=role)
        named.append(known[key])
        place += len(piece.text)
    return tuple(named)


def _locate(item: Conversation, renderer: Renderer, text: str) -> dict[int, Found]:
    def apply(messages: Sequence[Mapping[str, Any]]) -> str:
        options: dict[str, Any] = {"add_generation_prompt": False, **renderer.kwargs}
        if item.tools:
            options["tools"] = list(item.tools)
        return apply_template(renderer.tokenizer, renderer.template, messages, **options)

    return locate_messages(item.messages, range(len(item.messages)), text, apply)


def _find_ends(
    item: Conversation, found: Mapping[int, Found], renderer: Renderer, text: str
) -> list[tuple[int, str]]:
    order = sorted((index for index in found if found[index].places), key=lambda i: min(found[i].places))
    if not order:
        return [(len(text), TEMPLATE)]
    ends: list[tuple[int, str]] = []
    opened = [stop.end() for stop in renderer.stop.finditer(text, 0, min(found[order[0]].places))]
    if opened:
        ends.append((_skip_blanks(text, opened[-1]), TEMPLATE))
    for place, index in enumerate(order):
        following = order[place + 1] if place + 1 < len(order) else None
        limit = len(text) if following is None else min(found[following].places)
        last = max(found[index].places)
        stop = renderer.stop.search(text, last, limit)
        end = len(text) if following is None else _skip_blanks(text, stop.end() if stop else last)
        ends.append((min(end, limit), item.messages[index].role))
    return ends


def _skip_blanks(text: str, place: int) -> int:
    """Behind the blanks that end a turn."""
    return place + len(text[place:]) - len(text[place:].lstrip())
