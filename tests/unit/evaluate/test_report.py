"""The table of an evaluation."""

from __future__ import annotations

import io

import pytest

from siredon.evaluate.loss import Loss
from siredon.evaluate.report import show_results
from siredon.evaluate.score import ALL, Result

SCORES = {
    "rouge1": 0.2777,
    "rouge2": 0.1666,
    "rougeL": 0.1999,
    "chrf": 22.79,
    "exact_match": 0.5,
    "ter": 81.25,
}


def test_in_a_file_no_name_and_no_figure_is_cut(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    show_results(
        [Result(which, "validation", ALL, 17, Loss(2.65, 289), SCORES) for which in ("base", "tuned")]
    )
    lines = stream.getvalue().splitlines()
    assert all(name in lines[0].split() for name in SCORES)
    assert all("22.79" in line for line in lines[2:])
    assert max(map(len, lines)) < 140
