"""Scores by hand on a few texts; functions of the user's; what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from siredon.errors import DataError, UnknownPartError
from siredon.evaluate.metric import METRICS, load_metric

HAS_PACKAGES = importlib.util.find_spec("sacrebleu") is not None


def test_exact_match_counts_equal_texts():
    score = load_metric("exact_match")
    assert score(["a b", " c ", "d"], ["a b", "c", "D"]) == {"exact_match": 2 / 3}


@pytest.mark.skipif(not HAS_PACKAGES, reason="needs the extra `evaluate`")
def test_scores_are_those_of_a_few_texts_by_hand():
    said, wanted = ["the cat sat"], ["the cat sat down"]
    assert load_metric("rouge")(said, wanted) == pytest.approx(
        # precision 1, recall 3 of 4 words, 2 of 3 pairs
        {"rouge1": 2 * 0.75 / 1.75, "rouge2": 2 * (2 / 3) / (5 / 3), "rougeL": 2 * 0.75 / 1.75}
    )
    # One word of four is missing
    assert load_metric("ter")(said, wanted) == pytest.approx({"ter": 25.0})
    same = ["all of it is the same"]
    assert load_metric("sacrebleu")(same, same) == pytest.approx({"sacrebleu": 100.0})
    assert load_metric("chrf")(same, same) == pytest.approx({"chrf": 100.0})
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 threes, 1 of 2 fours
    bleu = load_metric("sacrebleu")(["the cat sat down here"], ["the cat sat down there"])
    assert bleu == pytest.approx({"sacrebleu": 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25})
    assert 20 < load_metric("chrf")(said, wanted)["chrf"] < 100


def test_every_metric_of_the_shelf_names_itself():
    assert set(METRICS.names()) == {"chrf", "exact_match", "rouge", "sacrebleu", "ter"}


SOURCE = """
def length(predictions, references):
    return sum(map(len, predictions)) / len(references)

def score(predictions, references):
    return {"one": 1, "two": 2.5}

def text(predictions, references):
    return "good"

def broken(predictions, references):
    return 1 / 0

def unbounded(predictions, references):
    return float("inf")

number = 3
"""


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_scores.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    assert load_metric("own_scores.length")(["abc", "d"], ["", ""]) == {"length": 2.0}
    assert load_metric("own_scores.score")(["a"], ["b"]) == {"one": 1.0, "two": 2.5}
    for name, message in (
        ("text", "'good', which is no number"),
        ("broken", "raised ZeroDivisionError"),
        ("unbounded", "inf, which is no number"),
    ):
        with pytest.raises(DataError, match=message):
            load_metric(f"own_scores.{name}")(["a"], ["b"])
    with pytest.raises(DataError, match="is no function"):
        load_metric("own_scores.number")
    with pytest.raises(DataError, match="has no function `lenght`"):
        load_metric("own_scores.lenght")


def test_what_is_no_metric_is_refused():
    with pytest.raises(UnknownPartError, match=r"'rogue'.*\n.*rouge"):
        load_metric("rogue")
    with pytest.raises(DataError, match="needs a model of its own"):
        load_metric("comet")
