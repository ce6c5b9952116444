from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from siredon.train.kto_loss import AnswerScores, KtoOptions, estimate_kl, kto_loss, sum_drifts

LN2 = log(2)


def make_scores(*ratios: float, good: list[bool]) -> AnswerScores:
    """Answers with log-probabilities so far above those of the reference model, -8 ln 2."""
    reference = torch.full((len(ratios),), -8 * LN2, dtype=torch.float64)
    log_probs = (reference + torch.tensor(ratios, dtype=torch.float64)).requires_grad_()
    return AnswerScores(log_probs, reference, torch.tensor(good))


def test_value_and_gradient_are_those_worked_out():
    """A good answer of three tokens of 1/2, by the reference model of 1/4, 1/4, 1/2: a = -3 + 5 = 2, in units of ln 2.

    A bad one of 1/8, 1/8, by the reference model of 1/4, 1/4: a = -6 + 4 = -2.  Mismatched answers have drifted by 3
    and -1, so k = 1.  With beta = 1: sigmoid(a - k) = sigmoid(ln 2) = 2/3, so 1.5 * (1 - 2/3) = 1/2 for the good one,
    and sigmoid(k - a) = sigmoid(3 ln 2) = 8/9, so 2 * (1 - 8/9) = 2/9 for the bad one.
    Derivatives: -1.5 * 2/3 * 1/3 = -1/3 and 2 * 8/9 * 1/9 = 16/81, the same for each token.
    """
    policy = [torch.tensor(each).double().log().requires_grad_() for each in ([1 / 2] * 3, [1 / 8] * 2)]
    reference = torch.tensor([-5 * LN2, -4 * LN2], dtype=torch.float64)
    scores = AnswerScores(
        torch.stack([each.sum() for each in policy]), reference, torch.tensor([True, False])
    )
    drifts = torch.tensor([3 * LN2 - 7, -LN2 - 2], dtype=torch.float64), torch.tensor([-7.0, -2.0]).double()
    kl = estimate_kl(sum_drifts(*drifts))
    assert kl.item() == pytest.approx(LN2)
    losses = kto_loss(scores, kl, KtoOptions(1.0, 1.5, 2.0))
    assert losses.tolist() == pytest.approx([1 / 2, 2 / 9])
    losses.sum().backward()
    assert [each.grad.tolist() for each in policy if each.grad is not None] == [
        pytest.approx([-1 / 3] * 3),
        pytest.approx([16 / 81] * 2),
    ]


def test_before_training_every_answer_has_half_of_its_weight():
    scores = make_scores(0, 0, 0, good=[True, False, True])
    losses = kto_loss(scores, torch.tensor(0.0), KtoOptions(0.1, 1.0, 3.0))
    assert losses.tolist() == [0.5, 1.5, 0.5]


def test_the_divergence_is_one_number_of_the_step_whatever_the_batches():
    torch.manual_seed(0)
    log_probs, reference = torch.randn(2, 11).double() + torch.tensor([[1.0], [0.0]])
    whole = estimate_kl(sum_drifts(log_probs, reference))
    parts = [sum_drifts(a, b) for a, b in zip(log_probs.split(3), reference.split(3), strict=True)]
    assert estimate_kl(sum(parts, torch.zeros(2).double())).item() == pytest.approx(whole.item(), rel=1e-15)
    assert whole.item() == pytest.approx((log_probs - reference).mean().item(), rel=1e-14)


def test_the_divergence_is_not_below_zero_has_no_gradient_and_may_be_of_no_row():
    log_probs = torch.tensor([-5.0, -6.0], requires_grad=True)
    sums = sum_drifts(log_probs, torch.zeros(2))
    assert not sums.requires_grad
    assert sums.tolist() == [-11.0, 2.0]
    assert estimate_kl(sums).item() == 0
    nothing = torch.zeros(0, requires_grad=True)
    assert estimate_kl(sum_drifts(nothing, torch.zeros(0))).item() == 0


def test_a_divergence_with_a_gradient_is_cut_off():
    scores, kl = make_scores(1, -1, good=[True, False]), torch.tensor(0.3, requires_grad=True)
    loss = kto_loss(scores, kl, KtoOptions()).sum()
    assert torch.autograd.grad(loss, kl, allow_unused=True) == (None,)


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_answers_of_one_kind_only_are_a_step_like_others(good: bool, num: int):
    scores = make_scores(*range(num), good=[good] * num)
    losses = kto_loss(scores, torch.tensor(0.5).double(), KtoOptions(0.2))
    losses.mean().backward()
    gradient = scores.log_probs.grad
    assert gradient is not None
    assert losses.isfinite().all()
    assert ((gradient < 0) == good).all()


@pytest.mark.parametrize("ratio", [-1e4, 1e4])
@pytest.mark.parametrize("kl", [0.0, 1e4])
def test_extreme_scores_are_numbers(ratio: float, kl: float):
    log_probs = torch.tensor([ratio, ratio], requires_grad=True)
    scores = AnswerScores(log_probs, torch.zeros(2), torch.tensor([True, False]))
    losses = kto_loss(scores, torch.tensor(kl), KtoOptions(1.0))
    losses.sum().backward()
    assert log_probs.grad is not None
    assert losses.isfinite().all()
    assert log_probs.grad.isfinite().all()


def test_a_good_answer_that_is_far_ahead_has_a_loss_left_and_not_zero():
    """1 - sigmoid(20) is 2e-9; as a difference in fp32 it would be 0."""
    scores = AnswerScores(torch.tensor([20.0]), torch.zeros(1), torch.tensor([True]))
    loss: Tensor = kto_loss(scores, torch.tensor(0.0), KtoOptions(1.0))
    assert loss.item() == pytest.approx(2.0611536e-9, rel=1e-5)
