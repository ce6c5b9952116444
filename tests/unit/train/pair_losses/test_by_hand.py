"""Every loss over pairs of answers of two and three tokens, whose numbers are worked out by hand.

The policy makes the chosen answer with probabilities 1/2, 1/2, 1/2, and the rejected one with 1/8, 1/8; the reference
model with 1/4, 1/4, 1/2 and 1/4, 1/4.  So, in units of ln 2:

    log p(chosen)  = -1 - 1 - 1 = -3      by the reference model -2 - 2 - 1 = -5      ratio c = -3 + 5 = +2
    log p(rejected) = -3 - 3 = -6         by the reference model -2 - 2 = -4          ratio r = -6 + 4 = -2
    margin h = c - r = 4
    per token: c / 3 = 2/3, r / 2 = -1, their difference 5/3

With beta = 1/2: sigmoid(beta c) = sigmoid(ln 2) = 2/3, sigmoid(beta r) = 1/3, sigmoid(beta h) = sigmoid(ln 4) = 4/5.
The derivative of -log sigmoid(x) is -sigmoid(-x), that of sigmoid(x) is sigmoid(x) sigmoid(-x).
"""

from __future__ import annotations

from math import log

import pytest
from tests.unit.train.pairs import make_pair

from siredon.config.shelves import PAIR_LOSSES
from siredon.train.pair_loss import PairOptions, StepCounts, combine, load_terms

LN2 = log(2)
HALF = PairOptions(beta=1 / 2)
SMOOTH = PairOptions(beta=1 / 2, label_smoothing=1 / 4)

#: Word, options -> the loss, and what each token of the chosen and of the rejected answer has as gradient.
CASES = [
    # -log(4/5); -1/2 * (1 - 4/5) = -1/10
    ("sigmoid", HALF, log(5 / 4), -1 / 10, 1 / 10),
    # 3/4 * -log(4/5) + 1/4 * -log(1/5); 1/2 * (-3/4 * 1/5 + 1/4 * 4/5) = 1/2 * 1/20
    ("sigmoid", SMOOTH, 3 / 4 * log(5 / 4) + 1 / 4 * log(5), 1 / 40, -1 / 40),
    # 1 - 1/4 * 4 ln 2 = 1 - ln 2; -1/4
    ("hinge", PairOptions(beta=1 / 4), 1 - LN2, -1 / 4, 1 / 4),
    # 1 - 1/2 * 4 ln 2 is below 0
    ("hinge", HALF, 0.0, 0.0, 0.0),
    # 1 / (2 * 1/2) = 1; 2 (5/3 ln 2 - 1), of which a chosen token has 1/3 and a rejected one 1/2
    ("ipo", HALF, (5 / 3 * LN2 - 1) ** 2, 2 / 3 * (5 / 3 * LN2 - 1), -(5 / 3 * LN2 - 1)),
    # q = 4/5: 4/5 log(4/5 / 3/4) + 1/5 log(1/5 / 1/4); 1/2 * 4/5 * 1/5 * (log(16/15) - log(4/5)) = 2/25 log(4/3)
    (
        "exo_pair",
        SMOOTH,
        4 / 5 * log(16 / 15) + 1 / 5 * log(4 / 5),
        2 / 25 * log(4 / 3),
        -2 / 25 * log(4 / 3),
    ),
    # beta = 1: sigmoid(c) = 4/5, sigmoid(r) = 1/5: -log(4/5) - 1/2 log(1/5) - 1/2 log(4/5);
    # -1/5 + 1/2 * 4/5 = 1/5; 1/2 * 1/5 = 1/10
    ("nca_pair", PairOptions(beta=1.0), 3 / 2 * log(5 / 4) + 1 / 2 * log(5), 1 / 5, 1 / 10),
    # (3/4 * -log(4/5) - 1/4 * -log(1/5)) / (1 - 1/2); 1/2 * (-3/4 * 1/5 - 1/4 * 4/5) / (1/2) = -7/20
    ("robust", SMOOTH, (3 / 4 * log(5 / 4) - 1 / 4 * log(5)) / (1 / 2), -7 / 20, 7 / 20),
    # -log(2/3) - log(1 - 1/3); -1/2 * 1/3; 1/2 * 1/3
    ("bco_pair", HALF, 2 * log(3 / 2), -1 / 6, 1 / 6),
    # 1 / (2 * 1/2) = 1: (2 ln 2 - 1)^2 + (-2 ln 2 + 1)^2; 2 (2 ln 2 - 1); 2 (-2 ln 2 + 1)
    ("sppo_hard", HALF, 2 * (2 * LN2 - 1) ** 2, 2 * (2 * LN2 - 1), -2 * (2 * LN2 - 1)),
    # one pair: its own margin, (-3 + 6) - (-5 + 4) = 4, so as sigmoid
    ("aot", HALF, log(5 / 4), -1 / 10, 1 / 10),
    ("aot", SMOOTH, 3 / 4 * log(5 / 4) + 1 / 4 * log(5), 1 / 40, -1 / 40),
    # one pair: 2 - (-2) = 4, so as sigmoid
    ("aot_unpaired", HALF, log(5 / 4), -1 / 10, 1 / 10),
    ("aot_unpaired", SMOOTH, 3 / 4 * log(5 / 4) + 1 / 4 * log(5), 1 / 40, -1 / 40),
    # 1 - 2/3 + 1/3; -1/2 * 2/3 * 1/3; 1/2 * 1/3 * 2/3
    ("apo_zero", HALF, 2 / 3, -1 / 9, 1 / 9),
    # 2/3 + 1 - 4/5 = 13/15; 1/2 * (2/9 - 4/25) = 1/2 * 14/225; 1/2 * 4/25
    ("apo_down", HALF, 13 / 15, 7 / 225, 2 / 25),
    # tau = 1/2: x = ln 4, s = sigmoid(2 ln 4) = 16/17: 1/17 log(5/4) + 16/17 * 1/4.  ds/dx = 2 * 16/17 * 1/17 = 32/289:
    # dx = -32/289 log(5/4) - 1/17 * 1/5 + 32/289 * 1/4 - 16/17 * 1/4, times 1/2
    (
        "discopop",
        PairOptions(beta=1 / 2, discopop_tau=1 / 2),
        1 / 17 * log(5 / 4) + 16 / 17 / 4,
        1 / 2 * (-32 / 289 * log(5 / 4) - 1 / 85 + 8 / 289 - 4 / 17),
        -1 / 2 * (-32 / 289 * log(5 / 4) - 1 / 85 + 8 / 289 - 4 / 17),
    ),
    # 3 ln 2 over 3 tokens; -1/3 each
    ("sft", HALF, LN2, -1 / 3, 0.0),
    # beta = 6/5: 6/5 * 5/3 ln 2 = ln 4; -6/5 * 1/3 * 1/5 = -2/25; 6/5 * 1/2 * 1/5 = 3/25
    ("sigmoid_norm", PairOptions(beta=6 / 5), log(5 / 4), -2 / 25, 3 / 25),
    # the same, smoothed: 6/5 * 1/20 = 3/50, of which a chosen token has 1/3 and a rejected one 1/2
    (
        "sigmoid_norm",
        PairOptions(beta=6 / 5, label_smoothing=1 / 4),
        3 / 4 * log(5 / 4) + 1 / 4 * log(5),
        1 / 50,
        -3 / 100,
    ),
]


@pytest.mark.parametrize(("word", "options", "loss", "chosen", "rejected"), CASES)
def test_value_and_gradient_are_those_worked_out(
    word: str, options: PairOptions, loss: float, chosen: float, rejected: float
):
    pair = make_pair([1 / 2] * 3, [1 / 8] * 2, ([1 / 4, 1 / 4, 1 / 2], [1 / 4] * 2))
    found = combine(load_terms([word]), pair.scores, options).share(StepCounts(1, 3))
    assert found.item() == pytest.approx(loss, rel=1e-14, abs=1e-15)
    assert pair.gradients(found) == (
        pytest.approx([chosen] * 3, rel=1e-13, abs=1e-15),
        pytest.approx([rejected] * 2, rel=1e-13, abs=1e-15),
    )


def test_every_loss_has_a_case():
    assert {word for word, *_ in CASES} == set(PAIR_LOSSES.names())
