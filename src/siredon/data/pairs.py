"""Two answers to one prompt -> two samples that share it, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from siredon.data.audit import NO_TARGETS
from siredon.data.types import IGNORE, Preference, RowError, Sample

if TYPE_CHECKING:
    from siredon.data.render import Rendered, Renderer, StopPolicy

#: Samples of a pair: the chosen one, and behind it the rejected one.
PAIR = 2
SIDES = ("chosen", "rejected")
#: Why a pair is dropped.
EQUAL = "both answers are the same"
BROKEN_PROMPT = "a token lies across the end of the prompt in one answer only"


def render_pair(item: Preference, renderer: Renderer, policy: StopPolicy) -> tuple[Rendered, Rendered]:
    """Both answers behind their prompt.

    Raises:
        RowError: The template cannot render one, or shows another prompt before one than before the other.
    """
    chosen, rejected = (renderer.render(side, policy) for side in (item.chosen, item.rejected))
    ours, theirs = (_prompt_of(side) for side in (chosen, rejected))
    if ours != theirs:
        place = next(
            (index for index, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other),
            min(len(ours), len(theirs)),
        )
        near = slice(max(0, place - 20), place + 20)
        raise RowError(
            "has another prompt before the chosen answer than before the rejected one: "
            f"{ours[near]!r}, and {theirs[near]!r}"
        )
    return chosen, rejected


def _prompt_of(rendered: Rendered) -> str:
    """The text before everything that is learned."""
    text = ""
    for span in rendered.spans:
        if span.learn:
            break
        text += span.text
    return text


def find_fault(samples: Sequence[Sample]) -> str:
    """Why nothing can be learned of a pair, of which either side has been brought to length; empty if it can."""
    chosen, rejected = samples
    if not chosen.num_targets or not rejected.num_targets:
        return NO_TARGETS
    ours, theirs = (side.input_ids[: int(np.argmax(side.labels != IGNORE))] for side in samples)
    if not np.array_equal(ours, theirs):
        return BROKEN_PROMPT
    if np.array_equal(chosen.input_ids, rejected.input_ids) and np.array_equal(
        chosen.labels, rejected.labels
    ):
        return EQUAL
    return ""
