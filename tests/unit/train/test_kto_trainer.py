"""Loss, divergence, gradients and rewards over judged answers are the slow truth, however these are batched."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.kto_steps import (
    OPTIONS,
    build_kto_trainer,
    judged,
    matched,
    random_answers,
    take_kto_step,
    true_kto_step,
)
from tests.unit.train.pair_steps import changed, true_scores
from tests.unit.train.steps import largest_difference

from siredon.config.sections.preference import JUDGED_MEASURES
from siredon.data.match import JudgedCollator
from siredon.data.types import IGNORE, Sample
from siredon.train.kto_loss import AnswerScores, KtoOptions, estimate_kl, kto_loss, sum_drifts
from siredon.train.memory_guard import cut_rows

#: Five answers of very unequal length; the prompt of the last one is a single token.
ANSWERS = random_answers([(20, 30, True), (7, 40, False), (33, 9, True), (12, 1, True), (1, 17, False)])
EACH = {"gradient_accumulation_steps": 5}


def policies() -> tuple[Any, Any]:
    """A policy that has drifted from its reference, so that the divergence is above 0."""
    reference = build_model()
    policy = changed(reference, 0.05)
    found, _ = true_kto_step(policy, reference, ANSWERS)
    if found["kl"] == 0:
        policy, reference = reference, policy
    return policy, reference


@pytest.fixture(scope="module")
def found() -> Any:
    policy, reference = policies()
    return policy, reference, *true_kto_step(policy, reference, ANSWERS)


@pytest.fixture
def truth(found: Any) -> Any:
    """Policy and reference, which a step may change, and what is true of a step."""
    policy, reference, *rest = found
    return copy.deepcopy(policy), copy.deepcopy(reference), *rest


def test_three_tokens_by_hand():
    """Two good answers and a bad one of two tokens; the mismatched ones have drifted by log 4 and 0."""
    good, bad = (torch.tensor([math.log(p)], requires_grad=True) for p in (1 / 8, 1 / 2))
    # The good one is twice as likely as by the reference, the bad one four times
    kl = estimate_kl(sum_drifts(torch.tensor([math.log(1 / 2), 0.0]), torch.tensor([math.log(1 / 8), 0.0])))
    assert kl.item() == pytest.approx(math.log(2), abs=1e-7)
    scores = AnswerScores(
        torch.cat([good, bad]), torch.tensor([math.log(1 / 16), math.log(1 / 8)]), torch.tensor([True, False])
    )
    first, second = kto_loss(scores, kl, KtoOptions(beta=1.0, desirable_weight=1.0, undesirable_weight=3.0))
    # log 2 - log 2 = 0, and log 4 - log 2 = log 2: sigmoid of that is 2/3
    assert first.item() == pytest.approx(1 / 2, abs=1e-6)
    assert second.item() == pytest.approx(3 * 2 / 3, abs=1e-6)
    (first + second).backward()
    assert good.grad is not None
    assert bad.grad is not None
    assert good.grad.item() == pytest.approx(-1 / 4, abs=1e-6)
    assert bad.grad.item() == pytest.approx(3 * 2 / 9, abs=1e-6)


@pytest.mark.parametrize("chunked", [True, False])
def test_loss_gradients_and_rewards_are_the_truth(write_config: Any, truth: Any, chunked: bool):
    policy, reference, wanted, gradients = truth
    assert wanted["kl"] > 1
    with torch.no_grad():
        before = true_scores(policy, ANSWERS)[[0, 2, 3]]
    logs, got = take_kto_step(policy, reference, ANSWERS, write_config, chunked=chunked, **EACH)
    for name, value in wanted.items():
        assert logs[name] == pytest.approx(value, abs=1e-4, rel=1e-5), name
    assert largest_difference(got, gradients) < 1e-5
    assert logs["rewards/margins"] == pytest.approx(
        wanted["rewards/chosen"] - wanted["rewards/rejected"], abs=1e-4
    )
    assert (logs["lengths/chosen"], logs["lengths/rejected"]) == (40 / 3, 57 / 2)
    assert set(JUDGED_MEASURES) <= set(logs)
    assert logs["logps/chosen"] == pytest.approx(before.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("packs", "flatten", "keys"),
    [
        (None, False, {"micro_batch_size": 5, "gradient_accumulation_steps": 1}),
        (None, True, {"micro_batch_size": 5, "gradient_accumulation_steps": 1}),
        (None, False, {"micro_batch_size": 2, "gradient_accumulation_steps": 3}),
        ([[0, 3], [1, 2, 4]], False, {"micro_batch_size": 2, "gradient_accumulation_steps": 1}),
        ([[0, 3], [1, 2, 4]], True, {"micro_batch_size": 2, "gradient_accumulation_steps": 1}),
        ([[4, 2, 1, 0, 3], []], False, {"micro_batch_size": 1, "gradient_accumulation_steps": 2}),
        ([[4], [3], [2], [1], [0]], False, EACH),
    ],
    ids=["one batch", "flattened", "odd batches", "packed", "packed flat", "an empty pack", "swapped"],
)
def test_batches_packs_and_order_change_nothing(
    write_config: Any, truth: Any, packs: Any, flatten: bool, keys: dict[str, Any]
):
    policy, reference, wanted, gradients = truth
    logs, got = take_kto_step(policy, reference, ANSWERS, write_config, packs=packs, flatten=flatten, **keys)
    assert logs["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    assert logs["kl"] == pytest.approx(wanted["kl"], abs=1e-4)
    assert largest_difference(got, gradients) < 1e-5
    assert (logs["count/chosen"], logs["count/rejected"]) == (3, 2)


@pytest.mark.parametrize("good", [True, False])
def test_a_step_of_one_class_is_one_like_others(write_config: Any, good: bool):
    policy, reference = policies()
    answers = judged(ANSWERS, [good] * 5)
    wanted, gradients = true_kto_step(policy, reference, answers)
    logs, got = take_kto_step(policy, reference, answers, write_config, **EACH)
    assert logs["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    assert largest_difference(got, gradients) < 1e-5
    missing = "rejected" if good else "chosen"
    assert f"rewards/{missing}" not in logs
    assert "rewards/margins" not in logs
    assert logs[f"count/{missing}"] == 0
    assert all(math.isfinite(value) for value in logs.values())


def test_a_divergence_below_nothing_is_nothing(write_config: Any):
    policy, reference = policies()
    wanted, gradients = true_kto_step(reference, policy, ANSWERS)
    assert wanted["kl"] == 0
    logs, got = take_kto_step(reference, policy, ANSWERS, write_config, **EACH)
    assert logs["kl"] == 0
    assert logs["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    assert largest_difference(got, gradients) < 1e-5


def test_the_first_step_has_half_the_weights_and_no_rewards(write_config: Any):
    model = build_model()
    logs, got = take_kto_step(model, model, ANSWERS, write_config, **EACH)
    assert logs["loss"] == pytest.approx((3 * 1.5 + 2 * 0.5) / 5 / 2, abs=1e-7)
    assert (logs["kl"], logs["rewards/chosen"], logs["rewards/rejected"]) == (0, 0, 0)
    assert all(torch.isfinite(value).all() for value in got.values())


def test_validation_has_one_divergence_whatever_the_batches(write_config: Any, truth: Any):
    policy, reference, wanted, _ = truth
    for size in (1, 2, 5):
        trainer = build_kto_trainer(policy, reference, ANSWERS, write_config, eval_batch_size=size)
        trainer.kl = torch.tensor(123.0)
        metrics = trainer.evaluate()
        for name, value in wanted.items():
            assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-4, rel=1e-5), (name, size)
        assert "eval_perplexity" not in metrics
        assert trainer.kl == 123


def test_mismatched_answers_stand_in_a_batch_of_their_own(write_config: Any):
    table = matched(ANSWERS)
    batch = JudgedCollator(0, marks_samples=True)([table.take(0) + table.take(1), (), table.take(4)])
    assert batch["desirable"].tolist() == [True, False, False]
    assert batch["packs"].tolist() == batch["mismatched"]["packs"].tolist() == [0, 0, 2]
    learned = batch["samples"][batch["labels"] != IGNORE]
    assert np.bincount(learned.numpy()).tolist() == [30, 40, 17]
    theirs = batch["mismatched"]
    counts = [
        len(ANSWERS[table.partners[row]].input_ids) - table.prompt_lengths[table.partners[row]]
        for row in (0, 1, 4)
    ]
    assert np.bincount(theirs["samples"][theirs["labels"] != IGNORE].numpy()).tolist() == counts
    assert [row["desirable"].tolist() for row in cut_rows(batch)] == [[True, False], [], [False]]


def test_references_that_are_known_come_with_both_batches(write_config: Any):
    model = build_model()
    trainer = build_kto_trainer(model, model, ANSWERS, write_config)
    table = trainer.train_dataset.table
    from dataclasses import replace

    known = replace(table, reference=-np.arange(10, dtype=np.float32))
    trainer.reference = None
    batch: Any = trainer.data_collator([known.take(1), known.take(3)])
    assert trainer._score_reference(batch).tolist() == [-2.0, -6.0]
    assert trainer._score_reference(batch["mismatched"]).tolist() == [-3.0, -7.0]
    both = trainer.score_groups(model, batch)
    with torch.no_grad():
        truth = true_scores(model, [*table.take(1), *table.take(3)]).view(2, 2)
    assert (both - truth).abs().max() < 1e-4


def test_the_loss_reads_its_settings(write_config: Any, truth: Any):
    policy, reference, _, _ = truth
    options = KtoOptions(beta=0.05, desirable_weight=0.2, undesirable_weight=2.0)
    wanted, _ = true_kto_step(policy, reference, ANSWERS, options)
    logs, _ = take_kto_step(policy, reference, ANSWERS, write_config, options=options, **EACH)
    assert logs["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
    assert options != OPTIONS


def test_a_document_by_itself_has_the_loss_of_its_tokens(write_config: Any):
    model = build_model()
    trainer = build_kto_trainer(model, model, ANSWERS, write_config)
    sample: Sample = ANSWERS[0]
    ids, labels = (torch.from_numpy(part.astype("int64"))[None] for part in (sample.input_ids, sample.labels))
    places = torch.arange(ids.shape[1])[None]
    alone: Any = {
        "input_ids": ids,
        "labels": labels,
        "position_ids": places,
        "num_tokens": torch.tensor([50]),
    }
    with torch.no_grad():
        truth = -true_scores(model, ANSWERS[:1])[0] / 30
    assert trainer.measure_row(alone) == pytest.approx(truth.item(), abs=1e-4)
