"""Loss, gradients and rewards over pairs are the slow truth, however pairs are packed, padded and shared out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import (
    build_pair_trainer,
    changed,
    random_pairs,
    take_pair_step,
    true_pair_step,
    true_scores,
)
from tests.unit.train.steps import largest_difference

from siredon.config.sections.preference import PAIR_MEASURES
from siredon.data.types import IGNORE, Sample
from siredon.train.memory_guard import cut_rows
from siredon.train.objective import add_up
from siredon.train.pair_loss import PairOptions, PairScores
from siredon.train.reference import AdapterOff, StartWeights, choose_reference

#: Five pairs with sides of very unequal length; the prompt of the last one is a single token.
PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9), (12, 1, 1), (1, 17, 3)])
EACH = {"gradient_accumulation_steps": 5}


def test_three_tokens_by_hand():
    """Chosen: log 1/2 + log 1/4 over reference log 1/4 + log 1/4; rejected: log 1/8 over log 1/2; beta 1/2."""
    chosen = torch.tensor([math.log(1 / 8)], requires_grad=True)
    rejected = torch.tensor([math.log(1 / 8)], requires_grad=True)
    reference = torch.tensor([math.log(1 / 16)]), torch.tensor([math.log(1 / 2)])
    scores = PairScores(chosen, rejected, *reference, torch.tensor([2]), torch.tensor([1]))
    from siredon.train.pair_loss import load_terms

    objective = add_up(load_terms(["sigmoid"]), PairOptions(beta=0.5))
    (loss,) = objective.run(scores).per_pair
    # The margin is 1/2 (log 2 - log 1/4) = 1/2 log 8, so p = sqrt(8) / (1 + sqrt(8))
    wrong = 1 / (1 + math.sqrt(8))
    assert loss.item() == pytest.approx(-math.log(1 - wrong), abs=1e-6)
    loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.5 * wrong, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.5 * wrong, abs=1e-6)
    measures = dict(zip(objective.measures, objective.measure(scores)[0].tolist(), strict=True))
    assert measures == pytest.approx(
        {
            "rewards/chosen": 0.5 * math.log(2),
            "rewards/rejected": -0.5 * math.log(4),
            "rewards/accuracies": 1.0,
            "rewards/margins": 0.5 * math.log(8),
            "logps/chosen": math.log(1 / 8),
            "logps/rejected": math.log(1 / 8),
            "lengths/chosen": 2.0,
            "lengths/rejected": 1.0,
            "lengths/longer_chosen": 1.0,
            "rewards/longer_preferred": 1.0,
            "logps/token_ratios": (math.log(2) - math.log(4)) / 3,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_gradients_and_rewards_are_the_truth(write_config: Any, chunked: bool, smoothing: float):
    reference = build_model()
    policy = changed(reference)
    truth, wanted = true_pair_step(policy, reference, PAIRS, smoothing=smoothing)
    with torch.no_grad():
        ours, theirs = true_scores(policy, PAIRS), true_scores(reference, PAIRS)
    options = PairOptions(0.3, smoothing)
    logs, got = take_pair_step(
        policy, reference, PAIRS, write_config, options=options, chunked=chunked, **EACH
    )
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-5
    rewards = 0.3 * (ours - theirs)
    assert logs["rewards/chosen"] == pytest.approx(rewards[0::2].mean().item(), abs=1e-4)
    assert logs["rewards/rejected"] == pytest.approx(rewards[1::2].mean().item(), abs=1e-4)
    assert logs["rewards/margins"] == pytest.approx((rewards[0::2] - rewards[1::2]).mean().item(), abs=1e-4)
    assert logs["rewards/accuracies"] == (rewards[0::2] > rewards[1::2]).double().mean().item()
    assert logs["logps/chosen"] == pytest.approx(ours[0::2].mean().item(), rel=1e-5)
    assert logs["logps/rejected"] == pytest.approx(ours[1::2].mean().item(), rel=1e-5)
    assert (logs["lengths/chosen"], logs["lengths/rejected"]) == (59 / 5, 58 / 5)


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
    write_config: Any, packs: Any, flatten: bool, keys: dict[str, Any]
):
    reference = build_model()
    truth, wanted = true_pair_step(changed(reference), reference, PAIRS)
    logs, got = take_pair_step(
        changed(reference), reference, PAIRS, write_config, packs=packs, flatten=flatten, **keys
    )
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-5
    assert logs["lengths/chosen"] == 59 / 5


@pytest.mark.parametrize("keys", [EACH, {"micro_batch_size": 2, "gradient_accumulation_steps": 3}])
def test_a_mean_over_tokens_beside_one_over_pairs_is_over_the_whole_step(
    write_config: Any, keys: dict[str, Any]
):
    """`sft`: the loss of all chosen tokens of the step, by their number, whatever micro-batch they are in."""
    reference = build_model()
    policy = changed(reference)
    truth, _ = true_pair_step(policy, reference, PAIRS)
    with torch.no_grad():
        imitated = -true_scores(policy, PAIRS)[0::2].sum() / 59
    wanted = truth + 0.5 * imitated.item()
    words = {"sigmoid": 1.0, "sft": 0.5}
    trainer = build_pair_trainer(policy, reference, PAIRS, write_config, words=words, **keys)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, abs=1e-4)
    logs, _ = take_pair_step(policy, reference, PAIRS, write_config, words=words, **keys)
    assert logs["loss"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("flatten", [False, True])
def test_scores_of_a_pack_are_those_of_its_samples_alone(write_config: Any, flatten: bool):
    model = build_model()
    trainer = build_pair_trainer(model, model, PAIRS, write_config, flatten=flatten)
    collate, table = trainer.data_collator, trainer.train_dataset.table
    with torch.no_grad():
        truth = true_scores(model.double(), PAIRS)
        model.float()
        packed = trainer.score_samples(model, collate([table.take(0) + table.take(1), (), table.take(2)]))
        whole = collate([table.take(index) for index in range(5)])
        rows = torch.cat([trainer.score_samples(model, row) for row in cut_rows(whole)])
    assert (packed.double() - truth[:6]).abs().max() < 1e-4
    assert (packed - rows[:6]).abs().max() < 1e-4
    assert ((rows.double() - truth) / truth).abs().max() < 1e-5


def test_what_stands_beside_a_pair_is_not_seen(write_config: Any):
    """Not by a bit: the rejected answer is another, and the chosen one's score is as before."""
    model = build_model()
    trainer = build_pair_trainer(model, model, PAIRS, write_config)
    other = [Sample(sample.input_ids.copy(), sample.labels.copy()) for sample in PAIRS[:2]]
    other[1].input_ids[-3:] += 1
    other[1].labels[-3:] += 1
    with torch.no_grad():
        one, two = (
            trainer.score_samples(model, trainer.data_collator([pair])) for pair in (PAIRS[:2], other)
        )
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_the_first_step_has_the_loss_ln_2_and_no_rewards(write_config: Any):
    model = build_model()
    logs, got = take_pair_step(model, model, PAIRS, write_config, **EACH)
    assert logs["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert [logs[name] for name in PAIR_MEASURES[:4]] == [0.0, 0.0, 0.0, 0.0]
    assert all(torch.isfinite(value).all() for value in got.values())


def test_validation_gives_loss_and_rewards_over_all_pairs(write_config: Any):
    reference = build_model()
    policy = changed(reference)
    truth, _ = true_pair_step(policy, reference, PAIRS)
    found = []
    for size in (1, 2, 5):
        trainer = build_pair_trainer(policy, reference, PAIRS, write_config, eval_batch_size=size)
        found.append(trainer.evaluate())
    for metrics in found:
        assert metrics["eval_loss"] == pytest.approx(truth, abs=1e-5)
        assert metrics["eval_rewards/margins"] == pytest.approx(found[0]["eval_rewards/margins"], abs=1e-5)
        assert metrics["eval_lengths/chosen"] == 59 / 5
        assert "eval_perplexity" not in metrics


def test_a_document_by_itself_has_the_loss_of_its_tokens(write_config: Any):
    model = build_model()
    trainer = build_pair_trainer(model, model, PAIRS, write_config)
    ids = torch.from_numpy(PAIRS[0].input_ids.astype("int64"))[None]
    labels = torch.from_numpy(PAIRS[0].labels.astype("int64"))[None]
    places = torch.arange(ids.shape[1])[None]
    alone: Any = {
        "input_ids": ids,
        "labels": labels,
        "position_ids": places,
        "num_tokens": torch.tensor([50]),
    }
    with torch.no_grad():
        truth = -true_scores(model, PAIRS[:1])[0] / 30
    assert trainer.measure_row(alone) == pytest.approx(truth.item(), abs=1e-4)


# The reference


def adapted(start: str | bool = True, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=start, **settings
    )
    return get_peft_model(build_model(), config)


def trained_too(model: Any) -> Any:
    """The same, with a weight of the base that is trained beside the adapter."""
    model.get_base_model().model.norm.weight.requires_grad_()
    return model


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: adapted(), AdapterOff),
        (lambda: adapted(False), StartWeights),
        (lambda: adapted("pissa"), StartWeights),
        (lambda: trained_too(adapted()), StartWeights),
        (lambda: adapted(modules_to_save=["lm_head"], ensure_weight_tying=True), AdapterOff),
        (build_model, StartWeights),
    ],
    ids=["zero", "random", "pissa", "a norm too", "a saved layer", "no adapter"],
)
def test_the_reference_is_the_start_and_stays_it(write_config: Any, model: Any, kind: type):
    policy = model()
    trainer = build_pair_trainer(policy, policy, PAIRS, write_config, chunked=False)
    trainer.reference = choose_reference(trainer)
    assert isinstance(trainer.reference, kind)
    batch: Any = trainer.data_collator([PAIRS[:2], PAIRS[2:4]])
    with torch.no_grad():
        start = trainer.score_samples(policy.eval(), batch)
        assert torch.equal(trainer._score_reference(batch), start)
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
        moved = trainer.score_samples(policy, batch)
        assert torch.equal(trainer._score_reference(batch), start)
        assert torch.equal(trainer.score_samples(policy, batch), moved)
    assert not torch.allclose(moved, start)
    assert any(weight.requires_grad for weight in policy.parameters())


def test_a_reference_by_other_parameters_is_found_by_name(write_config: Any):
    """A run that goes on may put new parameters into the places of those that the reference was made of."""
    policy = build_model()
    trainer = build_pair_trainer(policy, policy, PAIRS, write_config)
    batch: Any = trainer.data_collator([PAIRS[:2]])
    with torch.no_grad():
        start = trainer._score_reference(batch)
        policy.load_state_dict(changed(policy).state_dict(), assign=True)
        policy.tie_weights()
        assert torch.equal(trainer._score_reference(batch), start)


def test_references_that_are_known_come_with_the_batch(write_config: Any):
    model = build_model()
    trainer = build_pair_trainer(model, model, PAIRS, write_config)
    trainer.reference = None
    known = [Sample(s.input_ids, s.labels, 0, float(-number)) for number, s in enumerate(PAIRS[:4])]
    batch: Any = trainer.data_collator([known[:2], known[2:]])
    assert trainer._score_reference(batch).tolist() == [0.0, -1.0, -2.0, -3.0]
    assert [row["reference"].tolist() for row in cut_rows(batch)] == [[0.0, -1.0], [-2.0, -3.0]]
    assert "reference" not in trainer.data_collator([(*known[:1], PAIRS[1])])


def test_padding_and_prompts_are_of_no_sample():
    (pair,) = [random_pairs([(4, 3, 2)])]
    from siredon.data.collate import Collator

    batch = Collator(0, 16, marks_samples=True)([pair, pair])
    assert batch["samples"][0].tolist() == [0] * 7 + [1] * 6 + [4] * 3
    assert batch["samples"][1].tolist() == [2] * 7 + [3] * 6 + [4] * 3
    assert batch["packs"].tolist() == [0, 0, 1, 1]
    learned = batch["samples"][batch["labels"] != IGNORE]
    assert np.bincount(learned.numpy()).tolist() == [3, 2, 3, 2]
