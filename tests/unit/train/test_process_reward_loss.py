from __future__ import annotations

from math import log

import pytest
import torch

from siredon.data.types import IGNORE
from siredon.train.process_reward_loss import count_right, process_reward_loss

LN2 = log(2)
#: Three tokens: the first step is right, the token between is none, the second step is wrong.
LOGITS = [[[0.0, LN2], [5.0, -5.0], [0.0, 2 * LN2]]]
LABELS = [[1, IGNORE, 0]]


def test_value_and_gradient_are_those_worked_out():
    """Of (0, ln 2) the softmax is (1/3, 2/3), so -log(2/3); of (0, 2 ln 2) it is (1/5, 4/5), so -log(1/5).

    The derivative is the softmax minus 1 at the label: (1/3, -1/3), nothing, (-4/5, 4/5).
    """
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = process_reward_loss(logits, torch.tensor(LABELS))
    loss.backward()
    assert loss.item() == pytest.approx(log(3 / 2) + log(5))
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [
        pytest.approx([1 / 3, -1 / 3]),
        [0.0, 0.0],
        pytest.approx([-4 / 5, 4 / 5]),
    ]


def test_a_label_is_of_the_token_where_it_stands():
    """Shifted by one, as labels of the next token are, the loss would be that of (5, -5)."""
    logits, labels = torch.tensor(LOGITS), torch.tensor([[IGNORE, 0, IGNORE]])
    assert process_reward_loss(logits, labels).item() == pytest.approx(4.5398e-5, rel=1e-3)


def test_steps_that_are_judged_right_are_counted():
    logits = torch.tensor(LOGITS)
    assert count_right(logits, torch.tensor(LABELS)).tolist() == [1, 2]
    assert count_right(logits, torch.full((1, 3), IGNORE)).tolist() == [0, 0]


def test_no_labels_are_a_loss_of_zero():
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = process_reward_loss(logits, torch.full((1, 3), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_logits_in_half_precision_are_turned_into_fp32():
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16)
    loss = process_reward_loss(logits, torch.tensor(LABELS))
    assert loss.dtype == torch.float32
    assert process_reward_loss(torch.tensor([[[1e4, -1e4]]]), torch.tensor([[1]])).item() == 2e4
