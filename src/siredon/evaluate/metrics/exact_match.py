"""`exact_match`: how many answers are the reference, to the letter, spaces around them left out."""

from __future__ import annotations

from collections.abc import Sequence

from siredon.evaluate.metric import Metric


def score_exact_match(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The part of answers that equal their reference, from 0 to 1."""
    equal = sum(one.strip() == other.strip() for one, other in zip(predictions, references, strict=True))
    return {"exact_match": equal / len(references)}


METRIC = Metric(score_exact_match)
