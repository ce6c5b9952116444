from __future__ import annotations

from math import exp, expm1, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.train.pairs import draw_scores, make_pair, take

from siredon.train.orpo_loss import OrpoOptions, log_odds, orpo_loss
from siredon.train.pair_loss import PairScores, StepCounts

LN2 = log(2)


def test_value_and_gradient_are_those_worked_out():
    """Three tokens of 1/2: p = 1/2, odds 1.  Two of 1/8: p = 1/8, odds 1/7.  Their ratio is 7, sigmoid(log 7) = 7/8.

    The loss is 3 ln 2 / 3 + alpha log(8/7).  The derivative of log odds by log p is 1 / (1 - p): 2 and 8/7.
    Chosen tokens: -1/3 - alpha * 1/8 * 2 / 3; rejected ones: alpha * 1/8 * 8/7 / 2.
    """
    pair = make_pair([1 / 2] * 3, [1 / 8] * 2)
    loss = orpo_loss(pair.scores, OrpoOptions(alpha=0.6)).share(StepCounts(1, 3))
    assert loss.item() == pytest.approx(LN2 + 0.6 * log(8 / 7), rel=1e-14)
    assert pair.gradients(loss) == (
        pytest.approx([-1 / 3 - 0.6 / 12] * 3),
        pytest.approx([0.6 / 14] * 2),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [-1e-9, -1e-7, -1e-3, -0.5, -LN2, -0.7, -3.0, -20.0, -100.0, -1e4])
def test_odds_are_exact_at_either_end(dtype: torch.dtype, value: float):
    """`log p - log(1 - p)` with `expm1` of the C library, and its derivative `1 / (1 - p)`."""
    log_probs = torch.tensor([value], dtype=dtype, requires_grad=True)
    found = log_odds(log_probs)
    found.sum().backward()
    given_value = log_probs.item()
    rounding = torch.finfo(dtype).eps * 4
    assert log_probs.grad is not None
    assert found.item() == pytest.approx(given_value - log(-expm1(given_value)), rel=rounding, abs=rounding)
    assert log_probs.grad.item() == pytest.approx(1 / -expm1(given_value), rel=rounding)


@given(log_prob=st.floats(-700, -1e-300))
def test_odds_give_back_the_probability(log_prob: float):
    odds = log_odds(torch.tensor([log_prob], dtype=torch.float64)).item()
    assert odds == pytest.approx(log_prob - log(-expm1(log_prob)), rel=1e-12, abs=1e-12)
    if odds < 30:
        assert exp(odds) / (1 + exp(odds)) == pytest.approx(exp(log_prob), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chosen", [0.0, -1e-9, -1.0, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1e-9, -1.0, -1e4])
def test_extreme_scores_are_numbers(dtype: torch.dtype, chosen: float, rejected: float):
    first, second = (torch.tensor([value], dtype=dtype, requires_grad=True) for value in (chosen, rejected))
    one = torch.tensor([1])
    loss = orpo_loss(PairScores(first, second, None, None, one, one), OrpoOptions()).share(StepCounts(1, 1))
    assert all(each.isfinite().all() for each in (loss, *torch.autograd.grad(loss, (first, second))))
    if chosen == rejected:
        assert loss.item() == pytest.approx(0.1 * LN2 - chosen)


def test_micro_batches_add_up_to_the_step():
    scores = draw_scores(9)
    counts = StepCounts(9, scores.chosen_tokens.sum())
    whole = orpo_loss(scores, OrpoOptions()).share(counts)
    shares = [orpo_loss(take(scores, each), OrpoOptions()).share(counts) for each in torch.arange(9).split(2)]
    assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-14)
