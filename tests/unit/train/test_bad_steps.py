"""Bad steps are told from good ones by a bound that the slow way gives too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siredon.config.sections.bad_steps import BadStepSection
from siredon.train.bad_steps import GRADIENT, GRADIENT_SPIKE, LOSS, LOSS_SPIKE, Judge, describe_code


def judge_of(**keys: float) -> Judge:
    return Judge(BadStepSection(**keys), torch.device("cpu"))


def test_a_spike_is_above_the_slow_bound_and_noise_is_none():
    rng = np.random.default_rng(0)
    # Losses of small batches, which fall, and norms with a heavy tail
    losses = 1 + 2 * np.exp(-np.arange(1500) / 300) + 0.3 * rng.standard_normal(1500)
    norms = np.exp(0.4 * rng.standard_normal(1500))
    judge = judge_of(spike_factor=3.0, grad_spike_factor=3.0)
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        past = np.stack([losses, norms]).astype(np.float32)[:, max(0, number - 64) : number]
        if number >= 32 and number % 100 == 0:
            middle = np.sort(past, axis=1)[:, (past.shape[1] - 1) // 2]
            mad = np.sort(np.abs(past - middle[:, None]), axis=1)[:, (past.shape[1] - 1) // 2]
            truth = np.maximum(3 * middle, middle + 8 * 1.4826 * mad)
            assert judge.bound().numpy() == pytest.approx(truth, rel=1e-6)
        assert int(judge.judge_(torch.tensor(loss), torch.tensor(norm))) == 0, number
    good, bound = judge.recent.clone(), judge.bound()
    assert int(judge.judge_(bound[0] * 1.01, torch.tensor(1.0))) == LOSS_SPIKE
    assert int(judge.judge_(torch.tensor(float("nan")), bound[1] * 1.01)) == LOSS | GRADIENT_SPIKE
    assert int(judge.judge_(torch.tensor(1.0), torch.tensor(float("inf")))) == GRADIENT
    assert torch.equal(judge.recent, good)


def test_nothing_is_a_spike_before_half_of_the_window_is_filled_nor_without_a_factor():
    judge, plain = judge_of(spike_factor=2.0, spike_window=8), judge_of()
    for number in range(4):
        assert int(judge.judge_(torch.tensor(10.0**number), torch.tensor(10.0**number))) == 0
    # Medians of losses 1, 10, 100, 1000 and of their deviations 9, 0, 90, 990
    assert judge.bound().tolist() == pytest.approx([10 + 8 * 1.4826 * 9, float("inf")])
    assert int(judge.judge_(torch.tensor(117.0), torch.tensor(1e9))) == LOSS_SPIKE
    assert int(plain.judge_(torch.tensor(1e9), torch.tensor(1e9))) == 0


def test_a_window_of_another_length_is_not_taken_over():
    judge = judge_of(spike_factor=2.0, spike_window=8)
    judge.restore_([[1.0] * 9] * 2)
    assert judge.recent.isnan().all()
    judge.restore_([[1.0] * 8] * 2)
    assert judge.bound().tolist() == [2.0, float("inf")]


def test_a_code_has_words():
    assert describe_code(LOSS | GRADIENT) == "the loss is no finite number and the gradient is not finite"
    assert describe_code(LOSS_SPIKE) == "the loss is a spike"
