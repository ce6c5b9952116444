from __future__ import annotations

from math import log

import pytest
import torch
from tests.unit.train.pairs import draw_scores, make_pair, take

from siredon.train.pair_loss import StepCounts
from siredon.train.simpo_loss import SimpoOptions, simpo_loss

LN2 = log(2)


def test_value_and_gradient_are_those_worked_out():
    """Means per token, in units of ln 2: chosen -1 (three tokens of 1/2), rejected -3 (two of 1/8).

    With beta = 2 and gamma = 3 ln 2: 2 * 2 - 3 = 1, so -log sigmoid(ln 2) = log(3/2), whose derivative is
    -2 * 1/3 by either mean: -2/9 for each of three tokens, 1/3 for each of two.
    """
    pair = make_pair([1 / 2] * 3, [1 / 8] * 2)
    options = SimpoOptions(beta=2.0, gamma=3 * LN2, cpo_alpha=0.0)
    loss = simpo_loss(pair.scores, options).share(StepCounts(1, 3))
    assert loss.item() == pytest.approx(log(3 / 2), rel=1e-14)
    assert pair.gradients(loss) == (pytest.approx([-2 / 9] * 3), pytest.approx([1 / 3] * 2))


def test_imitation_is_added_per_token():
    """1/2 * (3 ln 2 / 3) more, and 1/2 * -1/3 more for each chosen token."""
    pair = make_pair([1 / 2] * 3, [1 / 8] * 2)
    options = SimpoOptions(beta=2.0, gamma=3 * LN2, cpo_alpha=0.5)
    loss = simpo_loss(pair.scores, options).share(StepCounts(1, 3))
    assert loss.item() == pytest.approx(log(3 / 2) + LN2 / 2, rel=1e-14)
    assert pair.gradients(loss) == (pytest.approx([-2 / 9 - 1 / 6] * 3), pytest.approx([1 / 3] * 2))


def test_smoothing_looks_at_the_other_side_too():
    """3/4 log(3/2) + 1/4 log 3; the derivative is 2 * (-3/4 * 1/3 + 1/4 * 2/3) = -1/6 by either mean."""
    pair = make_pair([1 / 2] * 3, [1 / 8] * 2)
    options = SimpoOptions(beta=2.0, gamma=3 * LN2, cpo_alpha=0.0, label_smoothing=0.25)
    loss = simpo_loss(pair.scores, options).share(StepCounts(1, 3))
    assert loss.item() == pytest.approx(3 / 4 * log(3 / 2) + 1 / 4 * log(3), rel=1e-14)
    assert pair.gradients(loss) == (pytest.approx([-1 / 18] * 3), pytest.approx([1 / 12] * 2))


def test_micro_batches_add_up_to_the_step():
    scores, options = draw_scores(9), SimpoOptions(2.0, 1.0, 0.3)
    counts = StepCounts(9, scores.chosen_tokens.sum())
    whole = simpo_loss(scores, options).share(counts)
    shares = [simpo_loss(take(scores, each), options).share(counts) for each in torch.arange(9).split(2)]
    assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-14)


@pytest.mark.parametrize("chosen", [-1e4, 0.0])
@pytest.mark.parametrize("rejected", [-1e4, 0.0])
def test_extreme_scores_are_numbers(chosen: float, rejected: float):
    pair = make_pair([1.0], [1.0])
    first, second = (torch.tensor([value], requires_grad=True) for value in (chosen, rejected))
    scores = type(pair.scores)(first, second, None, None, torch.tensor([1]), torch.tensor([1]))
    loss = simpo_loss(scores, SimpoOptions(10.0, 5.0)).share(StepCounts(1, 1))
    assert all(each.isfinite().all() for each in (loss, *torch.autograd.grad(loss, (first, second))))
