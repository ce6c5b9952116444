from __future__ import annotations

from math import log

import pytest
import torch

from siredon.ops.token_statistics import collision_statistics
from siredon.train.pair_weights import align, weigh_pairs


def test_the_weight_is_the_one_worked_out():
    """A model that draws from (1/2, 1/4, 1/4): sum p^2 = 1/4 + 1/16 + 1/16 = 3/8.

    Chosen tokens 0, 1, 0: p / sum p^2 = 4/3, 2/3, 4/3, whose geometric mean is (32/27)^(1/3).  Rejected tokens 2, 2:
    2/3.  The weight of the pair is their product.
    """
    hidden = torch.ones(5, 1)
    weight = torch.tensor([[1 / 2], [1 / 4], [1 / 4]]).log()
    aligned = align(*collision_statistics(hidden, weight, torch.tensor([0, 1, 0, 2, 2])))
    found = weigh_pairs(
        aligned[:3].sum()[None], aligned[3:].sum()[None], torch.tensor([3]), torch.tensor([2])
    )
    assert aligned.tolist() == pytest.approx([log(each) for each in (4 / 3, 2 / 3, 4 / 3, 2 / 3, 2 / 3)])
    assert found.item() == pytest.approx((32 / 27) ** (1 / 3) * 2 / 3)


def test_the_model_s_own_answers_count_about_one():
    """`sum p^2` is what p is on average of tokens drawn from p, so `p / sum p^2` is 1 on average."""
    torch.manual_seed(0)
    logits = torch.randn(6)
    probs = logits.softmax(0)
    ratio = align(probs.log(), probs.square().sum().log()).exp()
    assert (probs * ratio).sum().item() == pytest.approx(1, rel=1e-6)


def test_weights_have_no_gradient():
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    one = torch.ones(2, dtype=torch.long)
    aligned = align(log_probs, torch.tensor([-0.5, -0.5]))
    assert not aligned.requires_grad
    assert not weigh_pairs(log_probs, log_probs, one, one).requires_grad


def test_unlikely_answers_count_nothing_and_answers_without_tokens_are_left_alone():
    zero = torch.zeros(1)
    assert weigh_pairs(torch.tensor([-1e4]), zero, torch.tensor([2]), torch.tensor([1])).item() == 0
    assert weigh_pairs(zero, zero, torch.tensor([0]), torch.tensor([0])).item() == 1
