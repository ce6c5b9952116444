from __future__ import annotations

import re
from dataclasses import replace
from math import inf, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import ROOT
from tests.unit.train.pairs import draw_scores

from siredon.config.shelves import PAIR_LOSSES
from siredon.train.pair_loss import PairOptions, PairScores, combine, load_terms

WORDS = PAIR_LOSSES.names()
#: What each loss reads where nothing is smoothed; `exo_pair` is not defined there.
OPTIONS = {word: PairOptions(0.3, 0.01 if word == "exo_pair" else 0.0) for word in WORDS}
SCORES = st.floats(-50, 0)


def score(*values: float, dtype: torch.dtype = torch.float64) -> PairScores:
    """One pair: chosen, rejected, and both by the reference model; 2 and 3 tokens."""
    chosen, rejected, first, second = (torch.tensor([value], dtype=dtype) for value in values)
    return PairScores(
        chosen.requires_grad_(),
        rejected.requires_grad_(),
        first,
        second,
        torch.tensor([2]),
        torch.tensor([3]),
    )


def run(word: str, scores: PairScores, options: PairOptions | None = None) -> torch.Tensor:
    return PAIR_LOSSES.load(word).run(scores, options or OPTIONS[word])


@pytest.mark.parametrize(
    ("word", "loss"),
    [
        ("sigmoid", log(2)),
        ("sigmoid_norm", log(2)),
        ("aot", log(2)),
        ("aot_unpaired", log(2)),
        ("robust", log(2)),
        ("nca_pair", 2 * log(2)),
        ("bco_pair", 2 * log(2)),
        ("hinge", 1.0),
        ("apo_zero", 1.0),
        ("apo_down", 1.0),
        ("discopop", log(2) / 2 + 1 / 2),
        ("ipo", (1 / 0.6) ** 2),
        ("sppo_hard", 2 * (1 / 0.6) ** 2),
    ],
)
def test_before_training_the_loss_does_not_depend_on_the_answers(word: str, loss: float):
    for values in ((-3.0, -9.0), (-100.0, -0.5)):
        assert run(word, score(*values, *values)).item() == pytest.approx(loss, rel=1e-13)


@pytest.mark.parametrize("word", ["sigmoid", "sigmoid_norm", "aot", "aot_unpaired", "robust"])
@given(values=st.tuples(SCORES, SCORES, SCORES, SCORES), smoothing=st.floats(0.01, 0.49))
def test_smoothing_mixes_a_pair_with_the_same_the_other_way_round(word, values, smoothing):
    chosen, rejected, first, second = values
    scores = score(*values)
    turned = replace(score(rejected, chosen, second, first), chosen_tokens=torch.tensor([3]))
    turned = replace(turned, rejected_tokens=torch.tensor([2]))
    plain, other = (run(word, each).item() for each in (scores, turned))
    smoothed = run(word, scores, PairOptions(0.3, smoothing)).item()
    mixed = (1 - smoothing) * plain + smoothing * other
    if word == "robust":
        mixed = ((1 - smoothing) * plain - smoothing * other) / (1 - 2 * smoothing)
    assert smoothed == pytest.approx(mixed, rel=1e-9, abs=1e-12)


@given(values=st.tuples(SCORES, SCORES, SCORES, SCORES), rate=st.floats(0.01, 0.45))
def test_judgements_that_are_wrong_at_the_known_rate_leave_the_robust_loss_what_it_is(values, rate):
    chosen, rejected, first, second = values
    right, wrong = score(*values), score(rejected, chosen, second, first)
    options = PairOptions(0.3, rate)
    mean = (1 - rate) * run("robust", right, options) + rate * run("robust", wrong, options)
    assert mean.item() == pytest.approx(run("sigmoid", right).item(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("word", WORDS)
def test_only_these_losses_read_the_smoothing(word: str):
    scores = score(-3.0, -9.0, -4.0, -4.0)
    few, many = (run(word, scores, PairOptions(0.3, smoothing)).item() for smoothing in (0.01, 0.1))
    smoothed = {"sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired"}
    assert (few != many) == (word in smoothed)


@given(chosen=st.floats(-2, 8), rejected=st.floats(-8, 2))
def test_ipo_is_least_where_the_margin_per_token_is_half_of_the_inverse_of_beta(chosen, rejected):
    best = 1 / (2 * 0.3)
    exact = score(2 * (best + rejected), 3 * rejected, 0.0, 0.0)
    assert run("ipo", exact).item() == pytest.approx(0, abs=1e-20)
    loss = run("ipo", score(2 * chosen, 3 * rejected, 0.0, 0.0)).item()
    assert loss == pytest.approx((chosen - rejected - best) ** 2, rel=1e-9, abs=1e-12)


def test_exo_is_least_where_the_policy_prefers_as_often_as_the_smoothed_judgement():
    smoothing = 0.1
    margin = log((1 - smoothing) / smoothing) / 0.3
    scores = score(margin, 0.0, 0.0, 0.0)
    loss = run("exo_pair", scores, PairOptions(0.3, smoothing))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert scores.chosen.grad.item() == pytest.approx(0, abs=1e-15)


def test_smoothed_dpo_is_least_at_the_same_margin():
    scores = score(log(0.9 / 0.1) / 0.3, 0.0, 0.0, 0.0)
    run("sigmoid", scores, PairOptions(0.3, 0.1)).sum().backward()
    assert scores.chosen.grad.item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_extreme_scores_are_numbers_and_have_gradients(word: str, dtype: torch.dtype, beta: float):
    for values in [
        (-1e4, 0.0, 0.0, -1e4),
        (0.0, -1e4, -1e4, 0.0),
        (-1e4, -1e4, 0.0, 0.0),
        (0.0, 0.0, -1e4, -1e4),
        (-1e4, -1e4, -1e4, -1e4),
        (0.0, 0.0, 0.0, 0.0),
    ]:
        scores = score(*values, dtype=dtype)
        loss = run(word, scores, replace(OPTIONS[word], beta=beta))
        found = torch.autograd.grad(loss.sum(), (scores.chosen, scores.rejected), allow_unused=True)
        for each in (loss, *(grad for grad in found if grad is not None)):
            assert each.isfinite().all(), values
            assert each.dtype == dtype


@pytest.mark.parametrize("word", WORDS)
def test_fp32_has_the_loss_of_fp64_within_its_rounding(word: str):
    exact, single = draw_scores(200, 1), draw_scores(200, 1, dtype=torch.float32)
    for scores in (exact, single):
        run(word, scores).sum().backward()
    losses = [run(word, scores).double() for scores in (exact, single)]
    scale = losses[0].abs().max()
    assert (losses[0] - losses[1]).abs().max() < 1e-5 * scale
    assert (exact.chosen.grad - single.chosen.grad).abs().max() < 2e-5 * exact.chosen.grad.abs().max()


# Half of the value of `aot_unpaired` is without gradient; test_pair_loss.py holds it against the sorted sums
@pytest.mark.parametrize("word", [word for word in WORDS if word != "aot_unpaired"])
def test_gradients_are_those_of_finite_differences(word: str):
    scores = draw_scores(5, 2, scale=1.0)

    def whole(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return run(word, replace(scores, chosen=chosen, rejected=rejected)).sum()

    assert torch.autograd.gradcheck(whole, (scores.chosen, scores.rejected))


@pytest.mark.parametrize("word", WORDS)
def test_a_loss_needs_a_reference_where_it_says_so(word: str):
    scores = replace(score(-3.0, -4.0, 0.0, 0.0), reference_chosen=None, reference_rejected=None)
    if PAIR_LOSSES.load(word).needs_reference:
        with pytest.raises(ValueError, match="reference model"):
            combine(load_terms([word]), scores, OPTIONS[word])
    else:
        assert combine(load_terms([word]), scores, OPTIONS[word]).per_pair.isfinite().all()


def test_exo_without_smoothing_is_no_loss():
    with pytest.raises(ValueError, match="label_smoothing"):
        run("exo_pair", score(-1.0, -1.0, 0.0, 0.0), PairOptions(0.3))


def test_the_page_has_a_line_for_every_loss_and_says_what_it_needs():
    page = (ROOT / "docs/preference_losses.md").read_text()
    part = page.partition("## Pairs with a reference model")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| (yes|no) \|.*\|$", part, re.MULTILINE))
    assert rows == {word: "yes" if PAIR_LOSSES.load(word).needs_reference else "no" for word in WORDS}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": inf, "label_smoothing": 0.5}, "smoothing"),
        ({"discopop_tau": 1}, "tau"),
    ],
)
def test_options_out_of_range_are_refused(options, named: str):
    with pytest.raises(ValueError, match=named):
        PairOptions(**options)
