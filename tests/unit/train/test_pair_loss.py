from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.train.pairs import draw_scores, take
from torch import Tensor
from torch.nn import functional

from siredon.config.shelves import PAIR_LOSSES
from siredon.errors import UnknownPartError
from siredon.train.pair_loss import (
    LossParts,
    PairOptions,
    PairScores,
    StepCounts,
    StepScores,
    combine,
    load_terms,
    logistic,
    match_ranks,
)

OPTIONS = PairOptions(beta=0.3, label_smoothing=0.05)


def count(scores: PairScores) -> StepCounts:
    return StepCounts(len(scores.chosen), scores.chosen_tokens.sum())


def gradients(loss: Tensor, scores: PairScores) -> list[Tensor]:
    found = torch.autograd.grad(
        loss, (scores.chosen, scores.rejected), allow_unused=True, materialize_grads=True
    )
    return list(found)


def step_of(scores: PairScores, places: Tensor) -> StepScores:
    """What a trainer gathers over all batches and ranks before it trains on the pairs at some places."""
    assert scores.reference_chosen is not None
    assert scores.reference_rejected is not None
    return StepScores(
        scores.chosen.detach(),
        scores.rejected.detach(),
        scores.reference_chosen,
        scores.reference_rejected,
        places,
    )


@pytest.mark.parametrize("word", PAIR_LOSSES.names())
@pytest.mark.parametrize("cuts", [[13], [1] * 13, [4, 1, 8], [6, 7]])
def test_micro_batches_add_up_to_the_step(word: str, cuts: list[int]):
    """The whole step as one batch is the truth; cut up, the batches see each other in `step` only."""
    scores = draw_scores(13, 3)
    terms, counts = load_terms([word]), count(scores)
    whole = combine(terms, scores, OPTIONS).share(counts)
    shares = []
    for places in torch.arange(13).split(cuts):
        batch = replace(take(scores, places), step=step_of(scores, places))
        shares.append(combine(terms, batch, OPTIONS).share(counts))
    assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-13)
    for ours, truth in zip(gradients(sum(shares), scores), gradients(whole, scores), strict=True):
        assert torch.allclose(ours, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("word", PAIR_LOSSES.names())
def test_only_the_losses_that_say_so_depend_on_the_other_pairs(word: str):
    scores = draw_scores(9, 4)
    loss, places = PAIR_LOSSES.load(word), torch.arange(3)
    alone = loss.run(take(scores, places), OPTIONS)
    among = loss.run(replace(take(scores, places), step=step_of(scores, places)), OPTIONS)
    assert torch.equal(alone, among) != loss.needs_step


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_optimal_transport_is_the_loss_of_sorted_scores(smoothing: float):
    scores, options = draw_scores(11, 5), PairOptions(0.3, smoothing)
    assert scores.reference_chosen is not None
    assert scores.reference_rejected is not None
    margins = (scores.chosen - scores.rejected).sort().values
    gains = margins - (scores.reference_chosen - scores.reference_rejected).sort().values
    paired = logistic(0.3 * gains, smoothing).sum()
    chosen = (scores.chosen - scores.reference_chosen).sort().values
    rejected = (scores.rejected - scores.reference_rejected).sort().values
    unpaired = logistic(0.3 * (chosen - rejected), smoothing).sum()
    for word, truth in (("aot", paired), ("aot_unpaired", unpaired)):
        found = PAIR_LOSSES.load(word).run(scores, options).sum()
        assert found.item() == pytest.approx(truth.item(), rel=1e-13)
        for ours, theirs in zip(gradients(found, scores), gradients(truth, scores), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-12)


def test_two_pairs_that_cross_are_matched_by_rank():
    """Worked out by hand, in units of ln 2 with beta = 1.

    Margins of the policy 3 and 1, of the reference model 0 and 1: by rank 1 meets 0 and 3 meets 1, so gains of 1 and 2
    and losses of -log sigmoid(ln 2) = log(3/2) and -log sigmoid(ln 4) = log(5/4).  Pair by pair it would be 3 and 0.
    """
    chosen, rejected, first, second = (
        torch.tensor(each, dtype=torch.float64) * log(2) for each in ([-1, -2], [-4, -3], [-2, -3], [-2, -4])
    )
    ones = torch.ones(2, dtype=torch.long)
    scores = PairScores(chosen.requires_grad_(), rejected, first, second, ones, ones)
    losses = PAIR_LOSSES.load("aot").run(scores, PairOptions(1.0))
    assert losses.tolist() == pytest.approx([log(5 / 4), log(3 / 2)])
    losses.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-1 / 5, -1 / 3])


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_each_value_meets_the_other_of_its_rank_also_among_equals(values: list[int], seed: int):
    torch.manual_seed(seed)
    mine, others = torch.tensor(values), torch.randint(-3, 4, (len(values),))
    matched = match_ranks(mine, others)
    ranked = sorted(range(len(values)), key=lambda place: values[place])
    assert [int(matched[place]) for place in ranked] == sorted(others.tolist())


def test_several_losses_are_their_weighted_sum_and_tokens_are_averaged_over_the_step():
    scores = draw_scores(7, 6)
    counts = StepCounts(pairs=20, chosen_tokens=111)
    terms = load_terms(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.5])
    parts = combine(terms, scores, OPTIONS)
    sigmoid, bco = (PAIR_LOSSES.load(word).run(scores, OPTIONS).sum() for word in ("sigmoid", "bco_pair"))
    wanted = (0.8 * sigmoid + 0.2 * bco) / 20 - 1.5 * scores.chosen.sum() / 111
    assert parts.share(counts).item() == pytest.approx(wanted.item(), rel=1e-13)


def test_losses_without_weights_count_alike():
    terms = load_terms(["hinge", "ipo"])
    assert [term.weight for term in terms] == [1.0, 1.0]
    with pytest.raises(ValueError, match="shorter"):
        load_terms(["hinge", "ipo"], [1.0])


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(UnknownPartError, match="dpo_loss_type: 'sigmoyd'"):
        load_terms(["sigmoyd"])


@pytest.mark.parametrize("word", ["sigmoid", "sft"])
def test_the_weight_of_a_pair_multiplies_its_loss_and_has_no_gradient(word: str):
    scores = draw_scores(5, 7)
    weights = torch.rand(5, dtype=torch.float64, requires_grad=True)
    weighed = combine(load_terms([word]), replace(scores, weights=weights), OPTIONS).share(count(scores))
    plain = PAIR_LOSSES.load(word).run(scores, OPTIONS)
    divisor = 5 if word == "sigmoid" else scores.chosen_tokens.sum()
    assert weighed.item() == pytest.approx(((plain * weights).sum() / divisor).item(), rel=1e-13)
    assert torch.autograd.grad(weighed, weights, allow_unused=True) == (None,)


def test_the_reference_model_learns_nothing():
    scores = draw_scores(4, 8)
    assert scores.reference_chosen is not None
    first = scores.reference_chosen.clone().requires_grad_()
    for word in PAIR_LOSSES.names():
        loss = combine(load_terms([word]), replace(scores, reference_chosen=first), OPTIONS)
        share = loss.share(count(scores))
        assert torch.autograd.grad(share, first, allow_unused=True) == (None,), word


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_half_precision_are_refused(dtype: torch.dtype):
    scores = draw_scores(2)
    with pytest.raises(ValueError, match="fp32"):
        replace(scores, chosen=scores.chosen.detach().to(dtype))


@pytest.mark.parametrize("name", ["rejected", "reference_chosen", "chosen_tokens"])
def test_there_is_one_number_for_each_pair(name: str):
    with pytest.raises(ValueError, match="3 pairs"):
        replace(draw_scores(3), **{name: torch.zeros(1)})


def test_a_chosen_answer_without_tokens_has_a_mean_of_zero():
    scores = replace(draw_scores(2), chosen_tokens=torch.tensor([0, 2]))
    chosen, _ = scores.per_token(torch.tensor([0.0, -4.0]), scores.rejected)
    assert chosen.tolist() == [0.0, -2.0]


def test_counts_may_be_on_the_device():
    parts = LossParts(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0]))
    assert parts.share(StepCounts(torch.tensor(6), torch.tensor(24))).item() == 3 / 6 + 12 / 24
    assert LossParts(torch.tensor([1.0, 2.0])).share(StepCounts(6, 1)).item() == 0.5


def test_the_logistic_loss_is_its_formula():
    values = torch.linspace(-30, 30, 61, dtype=torch.float64)
    truth = -0.8 * functional.logsigmoid(values) - 0.2 * functional.logsigmoid(-values)
    assert torch.allclose(logistic(values, 0.2), truth, rtol=1e-14)
