"""`ter`: edits that turn the answers into their references, per 100 words of these; lower is better.

Source: Snover et al., "A Study of Translation Edit Rate", 2006, https://aclanthology.org/2006.amta-papers.25.
"""

from __future__ import annotations

from collections.abc import Sequence

from siredon.evaluate.metric import Metric


def score_ter(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """0 and up; may be over 100."""
    from sacrebleu import corpus_ter

    return {"ter": float(corpus_ter(list(predictions), [list(references)]).score)}


METRIC = Metric(score_ter, requires="sacrebleu")
