"""Losses beside a model in bf16: what is rounded, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.unit.train.pairs import draw_scores
from torch import Tensor

from siredon.config.shelves import PAIR_LOSSES
from siredon.data.types import IGNORE
from siredon.ops.token_statistics import collision_statistics, token_statistics
from siredon.train.kto_loss import AnswerScores, KtoOptions, estimate_kl, kto_loss, sum_drifts
from siredon.train.orpo_loss import OrpoOptions, orpo_loss
from siredon.train.pair_loss import PairOptions, PairScores, StepCounts, combine, load_terms
from siredon.train.pair_weights import align, weigh_pairs
from siredon.train.reward_loss import reward_loss
from siredon.train.simpo_loss import SimpoOptions, simpo_loss

#: Each loss as a function of the scores of pairs, to a scalar.
LOSSES: dict[str, Callable[[PairScores], Tensor]] = {
    **{
        word: lambda scores, word=word: combine(load_terms([word]), scores, PairOptions(0.1, 0.01)).share(
            StepCounts(7, 50)
        )
        for word in PAIR_LOSSES.names()
    },
    "simpo": lambda scores: simpo_loss(scores, SimpoOptions(2.0)).share(StepCounts(7, 50)),
    "orpo": lambda scores: orpo_loss(scores, OrpoOptions()).share(StepCounts(7, 50)),
    "reward": lambda scores: reward_loss(scores.chosen, scores.rejected, center_coefficient=0.01).mean(),
    "kto": lambda scores: _run_kto(scores),
}


def _run_kto(scores: PairScores) -> Tensor:
    assert scores.reference_chosen is not None
    kl = estimate_kl(sum_drifts(scores.rejected, scores.reference_chosen))
    answers = AnswerScores(scores.chosen, scores.reference_chosen, scores.chosen_tokens > 4)
    return kto_loss(answers, kl, KtoOptions()).mean()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("format", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit_of_a_loss(name: str, format: torch.dtype):
    results = []
    for is_on in (False, True):
        scores = draw_scores(7, 1, dtype=torch.float32)
        with torch.autocast("cpu", format, enabled=is_on):
            loss = LOSSES[name](scores)
        found = torch.autograd.grad(
            loss, (scores.chosen, scores.rejected), allow_unused=True, materialize_grads=True
        )
        results.append((loss, *found))
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(plain, cast)


def draw_answers(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and a head in bf16, and the ids of one long answer, most of which the model finds likely."""
    torch.manual_seed(0)
    weight = (torch.randn(97, 16) * 0.9).bfloat16()
    targets = torch.randint(0, 97, (num_tokens,))
    hidden = (weight[targets].float() * 0.4 + torch.randn(num_tokens, 16) * 0.3).bfloat16()
    targets[::7] = IGNORE
    return hidden, weight, targets


def exact_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities in fp64 of logits that are rounded to bf16, as a model in bf16 has them."""
    logs = torch.log_softmax((hidden @ weight.T).double(), 1)
    found = logs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets != IGNORE, found, 0), torch.where(
        targets != IGNORE, (2 * logs).logsumexp(1), 0
    )


@pytest.mark.parametrize("is_autocast", [False, True])
def test_a_long_answer_of_a_model_in_bf16_is_added_up_to_a_thousandth(is_autocast: bool):
    """The sum of 2,000 log-probabilities; in bf16, an answer that is exp(4) times as likely has the same one."""
    hidden, weight, targets = draw_answers(2000)
    truth, _ = exact_log_probs(hidden, weight, targets)
    given = (hidden.float(), weight.float()) if is_autocast else (hidden, weight)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        found, _ = token_statistics(*given, targets)
        total = found.sum()
    assert total.dtype == torch.float32
    assert abs(total.item() - truth.sum().item()) < 2e-3
    assert total.bfloat16() == (total + 4).bfloat16()


def test_the_weight_of_a_pair_survives_bf16():
    hidden, weight, targets = draw_answers(400)
    tokens = (targets != IGNORE).sum()[None]
    found, collisions = collision_statistics(hidden, weight, targets)
    truth, squares = exact_log_probs(hidden, weight, targets)
    sums = align(found, collisions).sum()[None], align(truth, squares).sum()[None]
    ours, exact = (weigh_pairs(each, each, tokens, tokens).item() for each in sums)
    assert ours == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_fp32_has_the_gradient_of_fp64_for_long_answers(name: str):
    """Sums of about -800, whose differences are a few units: what fp32 leaves of them moves no gradient much."""
    results = []
    for dtype in (torch.float64, torch.float32):
        scores = draw_scores(7, 2, scale=3.0, dtype=dtype)
        far = {
            part: (getattr(scores, part).detach() - 770).requires_grad_(part in ("chosen", "rejected"))
            for part in ("chosen", "rejected", "reference_chosen", "reference_rejected")
        }
        scores = replace(
            scores, **far, chosen_tokens=torch.full((7,), 400), rejected_tokens=torch.full((7,), 380)
        )
        loss = LOSSES[name](scores)
        grads = torch.autograd.grad(
            loss, (scores.chosen, scores.rejected), allow_unused=True, materialize_grads=True
        )
        results.append([loss.double(), *(each.double() for each in grads)])
    for exact, single in zip(*results, strict=True):
        assert (exact - single).abs().max() <= 2e-4 * exact.abs().max()
