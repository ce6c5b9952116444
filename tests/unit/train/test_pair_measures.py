"""What is measured beside the loss of pairs is the slow truth, and moves loss and gradients by no bit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import build_pair_trainer, changed, random_pairs, take_pair_step
from torch import Tensor

from siredon.data.types import IGNORE, Sample
from siredon.train.objective import Objective, add_up
from siredon.train.pair_loss import PairOptions, load_terms

#: Five pairs with sides of very unequal length; the prompt of the last one is a single token.
PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9), (12, 1, 1), (1, 17, 3)])
LAYOUTS: dict[str, dict[str, Any]] = {
    "one by one": {"gradient_accumulation_steps": 5},
    "padded": {"micro_batch_size": 5, "gradient_accumulation_steps": 1},
    "packed": {"packs": [[0, 3], [1, 2, 4]], "micro_batch_size": 2, "gradient_accumulation_steps": 1},
    "end to end": {
        "packs": [[0, 3], [1, 2, 4]],
        "flatten": True,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
    },
}


def build_objective(**changes: Any) -> Objective:
    return replace(add_up(load_terms(["sigmoid"]), PairOptions(beta=0.3)), **changes)


def find_logs(model: Any, sample: Sample) -> Tensor:
    """What the model expects in the place of each learned token, one sample at a time, fp64, [T, V]."""
    ids = torch.from_numpy(sample.input_ids.astype("int64"))[None]
    logits = model(input_ids=ids, use_cache=False).logits[0]
    places = np.flatnonzero(sample.labels != IGNORE) - 1
    logs: Tensor = logits[places].log_softmax(-1)
    return logs


def true_means(samples: Sequence[Sample], of_tokens: Callable[[Sample], Tensor]) -> dict[str, float]:
    """Means over answers of means over their tokens, by side."""
    with torch.no_grad():
        means = [of_tokens(sample).mean().item() for sample in samples]
    return {"chosen": float(np.mean(means[0::2])), "rejected": float(np.mean(means[1::2]))}


def true_entropies(model: Any, samples: Sequence[Sample]) -> dict[str, float]:
    exact = copy.deepcopy(model).double()

    def measure(sample: Sample) -> Tensor:
        logs = find_logs(exact, sample)
        return -(logs.exp() * logs).sum(-1)

    return true_means(samples, measure)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunked", [True, False])
def test_entropies_are_the_truth_however_pairs_lie(write_config: Any, chunked: bool, layout: str):
    reference = build_model()
    policy = changed(reference)
    truth = true_entropies(policy, PAIRS)
    options = {"objective": build_objective(entropies=True), "chunked": chunked, **LAYOUTS[layout]}
    logs, _ = take_pair_step(copy.deepcopy(policy), reference, PAIRS, write_config, **options)
    validation = build_pair_trainer(policy, reference, PAIRS, write_config, **options).evaluate()
    for side, value in truth.items():
        assert logs[f"entropy/{side}"] == pytest.approx(value, rel=1e-5)
        assert validation[f"eval_entropy/{side}"] == pytest.approx(value, rel=1e-5)


def true_divergences(model: Any, other: Any, samples: Sequence[Sample]) -> dict[str, float]:
    exact, against = copy.deepcopy(model).double(), copy.deepcopy(other).double()

    def measure(sample: Sample) -> Tensor:
        logs = find_logs(exact, sample)
        return (logs.exp() * (logs - find_logs(against, sample))).sum(-1)

    return true_means(samples, measure)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_divergences_are_the_truth_however_pairs_lie(
    write_config: Any, chunked: bool, layout: str, tied: bool
):
    """Also where the head itself has moved: that of the reference model is another."""
    reference = build_model(tied=tied)
    policy = changed(reference)
    truth = true_divergences(policy, reference, PAIRS)
    options = {"objective": build_objective(divergences=True), "chunked": chunked, **LAYOUTS[layout]}
    logs, _ = take_pair_step(copy.deepcopy(policy), reference, PAIRS, write_config, **options)
    validation = build_pair_trainer(policy, reference, PAIRS, write_config, **options).evaluate()
    for side, value in truth.items():
        assert value > 0.01
        assert logs[f"kl/{side}"] == pytest.approx(value, rel=1e-4)
        assert validation[f"eval_kl/{side}"] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_policy_that_is_its_reference_has_no_divergence(write_config: Any, chunked: bool):
    model = build_model()
    options = {"objective": build_objective(divergences=True), "chunked": chunked}
    found = build_pair_trainer(model, model, PAIRS, write_config, **options).evaluate()
    assert (found["eval_kl/chosen"], found["eval_kl/rejected"]) == (0, 0)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("weighs", [True, False])
@pytest.mark.parametrize("measured", ["entropies", "divergences"])
def test_measuring_moves_loss_and_gradients_by_no_bit(
    write_config: Any, chunked: bool, weighs: bool, measured: str
):
    reference = build_model()
    take = functools.partial(
        take_pair_step,
        reference=reference,
        samples=PAIRS,
        write_config=write_config,
        chunked=chunked,
        micro_batch_size=2,
        gradient_accumulation_steps=3,
    )
    plain, gradients = take(changed(reference), objective=build_objective(weighs=weighs))
    logs, found = take(changed(reference), objective=build_objective(weighs=weighs, **{measured: True}))
    names = [name for name in plain if not any(word in name for word in ("per_second", "runtime", "memory"))]
    assert [logs[name] for name in names] == [plain[name] for name in names]
    assert all(torch.equal(found[name], gradients[name]) for name in gradients)
    assert {*logs} > {*plain}


def test_an_answer_without_tokens_has_no_entropy(write_config: Any):
    """As where an answer was cut away: its mean is 0, and not a division by zero."""
    samples = random_pairs([(9, 4, 3)])
    bare = Sample(samples[1].input_ids, np.full_like(samples[1].labels, IGNORE))
    model = build_model()
    trainer = build_pair_trainer(
        model, model, [samples[0], bare], write_config, objective=build_objective(entropies=True)
    )
    found = trainer.evaluate()
    assert found["eval_entropy/rejected"] == 0
    assert found["eval_entropy/chosen"] > 0
