"""`rouge`: shared words (rouge1), pairs of words (rouge2) and the longest common subsequence (rougeL).

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, https://aclanthology.org/W04-1013.
"""

from __future__ import annotations

from collections.abc import Sequence

from siredon.evaluate.metric import Metric

_KINDS = ("rouge1", "rouge2", "rougeL")


def score_rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The F-measure of each kind, from 0 to 1, mean over the answers."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_KINDS), use_stemmer=True)
    scores = [scorer.score(other, one) for one, other in zip(predictions, references, strict=True)]
    return {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in _KINDS}


METRIC = Metric(score_rouge, requires="rouge_score")
