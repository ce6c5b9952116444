"""`sacrebleu`: BLEU of the whole set of answers, with the tokenization of WMT.

Source: Post, "A Call for Clarity in Reporting BLEU Scores", 2018, https://aclanthology.org/W18-6319.
"""

from __future__ import annotations

from collections.abc import Sequence

from siredon.evaluate.metric import Metric


def score_sacrebleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """From 0 to 100."""
    from sacrebleu import corpus_bleu

    return {"sacrebleu": float(corpus_bleu(list(predictions), [list(references)]).score)}


METRIC = Metric(score_sacrebleu, requires="sacrebleu")
