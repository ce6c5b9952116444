"""`chrf`: shared runs of up to six letters.

Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015, https://aclanthology.org/W15-3049.
"""

from __future__ import annotations

from collections.abc import Sequence

from siredon.evaluate.metric import Metric


def score_chrf(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """From 0 to 100."""
    from sacrebleu import corpus_chrf

    return {"chrf": float(corpus_chrf(list(predictions), [list(references)]).score)}


METRIC = Metric(score_chrf, requires="sacrebleu")
