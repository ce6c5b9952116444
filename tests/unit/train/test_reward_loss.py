from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siredon.train.reward_loss import reward_loss

LN2 = log(2)


def scores(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def test_value_and_gradient_are_those_worked_out():
    """Pairs of (ln 2, -ln 2) and (0, ln 2): leads of ln 4 and -ln 2.

    -log(4/5) and -log(1/3); the derivatives by the lead are -1/5 and -2/3.
    """
    chosen, rejected = scores(LN2, 0), scores(-LN2, LN2)
    losses = reward_loss(chosen, rejected)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([log(5 / 4), log(3)])
    assert chosen.grad.tolist() == pytest.approx([-1 / 5, -2 / 3])
    assert rejected.grad.tolist() == pytest.approx([1 / 5, 2 / 3])


def test_a_margin_is_taken_from_the_lead():
    """ln 4 - ln 2 = ln 2: -log(2/3), -1/3."""
    chosen, rejected = scores(LN2), scores(-LN2)
    loss = reward_loss(chosen, rejected, margin=torch.tensor([LN2], dtype=torch.float64))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([log(3 / 2)])
    assert (chosen.grad.item(), rejected.grad.item()) == (pytest.approx(-1 / 3), pytest.approx(1 / 3))


def test_scores_are_drawn_to_zero():
    """0 + ln 2 squared, times 1/2, beside log 3; 2 * 1/2 * ln 2 for both, beside -2/3 and 2/3."""
    chosen, rejected = scores(0), scores(LN2)
    loss = reward_loss(chosen, rejected, center_coefficient=0.5)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([log(3) + LN2**2 / 2])
    assert chosen.grad.item() == pytest.approx(LN2 - 2 / 3)
    assert rejected.grad.item() == pytest.approx(LN2 + 2 / 3)


@given(first=st.floats(-30, 30), second=st.floats(-30, 30), shift=st.floats(-10, 10))
def test_only_differences_count_unless_scores_are_centred(first: float, second: float, shift: float):
    plain = reward_loss(scores(first), scores(second)).item()
    assert reward_loss(scores(first + shift), scores(second + shift)).item() == pytest.approx(plain, abs=1e-9)
    centred = reward_loss(scores(first), scores(second), center_coefficient=0.01).item()
    assert centred == pytest.approx(plain + 0.01 * (first + second) ** 2, abs=1e-9)


def test_equal_scores_have_a_loss_of_ln_2():
    assert reward_loss(scores(3.7), scores(3.7)).item() == pytest.approx(LN2)


@pytest.mark.parametrize("values", [(1e4, -1e4), (-1e4, 1e4), (1e4, 1e4)])
def test_extreme_scores_are_numbers(values: tuple[float, float]):
    chosen, rejected = (scores(value, dtype=torch.float32) for value in values)
    loss = reward_loss(chosen, rejected, center_coefficient=0.01)
    loss.sum().backward()
    assert all(each.isfinite().all() for each in (loss, chosen.grad, rejected.grad))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_half_precision_are_compared_in_fp32(dtype: torch.dtype):
    chosen, rejected = scores(9.0, 10.0, dtype=dtype), scores(3.0, 10.0, dtype=dtype)
    losses = reward_loss(chosen, rejected)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx([0.0024757, LN2], rel=1e-4)
    assert chosen.grad.dtype == dtype
