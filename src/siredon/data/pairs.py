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
ALL_ANSWER = "an answer alone is over sequence_len"
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
    ours, theirs = (side.input_ids[: _count_prompt(side)] for side in samples)
    if not np.array_equal(ours, theirs):
        return BROKEN_PROMPT
    if np.array_equal(chosen.input_ids, rejected.input_ids) and np.array_equal(
        chosen.labels, rejected.labels
    ):
        return EQUAL
    return ""


def trim_prompt(samples: Sequence[Sample], limit: int, bos_id: int | None) -> tuple[list[Sample], bool, str]:
    """Cuts the beginning of the prompt, of both sides the same, so that neither is over a length.

    Args:
        samples: Both sides.
        limit: The most tokens of a side.
        bos_id: The token a text begins with, which stays; None if there is none.

    Returns:
        Both sides; whether anything was cut; why nothing can be: at least one token has to stay before an answer.
    """
    excess = max(len(side.input_ids) for side in samples) - limit
    if excess <= 0:
        return list(samples), False, ""
    first = int(samples[0].input_ids[0] == bos_id) if bos_id is not None else 0
    num_prompt = min(_count_prompt(side) for side in samples)
    if excess >= num_prompt or first + excess > num_prompt:
        return list(samples), False, ALL_ANSWER
    gone = np.s_[first : first + excess]
    cut = [Sample(np.delete(side.input_ids, gone), np.delete(side.labels, gone)) for side in samples]
    return cut, True, ""


def _count_prompt(sample: Sample) -> int:
    """Tokens before the first that is learned; all, if none is."""
    is_learned = sample.labels != IGNORE
    return int(np.argmax(is_learned)) if is_learned.any() else len(is_learned)
