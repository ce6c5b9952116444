"""Each method over pairs takes the step of the slow truth, however pairs are packed, padded and shared out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import build_pair_trainer, changed, random_pairs, take_pair_step, true_scores
from tests.unit.train.steps import largest_difference
from torch import Tensor

from siredon.config.sections.preference import PreferenceSection
from siredon.data.types import IGNORE, Sample
from siredon.train.memory_guard import cut_rows
from siredon.train.objective import Objective, build_dpo, build_orpo, build_simpo
from siredon.train.step_scores import score_step

#: Five pairs with sides of very unequal length; the prompt of the last one is a single token.
PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9), (12, 1, 1), (1, 17, 3)])
TOKENS = torch.tensor([30, 5, 2, 40, 9, 9, 1, 1, 17, 3]).double()
EACH = {"gradient_accumulation_steps": 5}


def margins(values: Tensor) -> Tensor:
    return values[0::2] - values[1::2]


def softplus(values: Tensor) -> Tensor:
    """Equals -log sigmoid(-x), written out."""
    return (1 + values.exp()).log()


def ipo(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    del weights
    return (margins((scores - before) / TOKENS) - 1 / (2 * 0.4)).square().mean()


def simpo(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    del before, weights
    imitated = -scores[0::2].sum() / TOKENS[0::2].sum()
    return softplus(-(2.5 * margins(scores / TOKENS) - 0.8)).mean() + 0.3 * imitated


def orpo(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    del before, weights
    probs = (scores / TOKENS).exp()
    odds = probs / (1 - probs)
    imitated = -scores[0::2].sum() / TOKENS[0::2].sum()
    return imitated + 0.2 * softplus(-(odds[0::2] / odds[1::2]).log()).mean()


def wpo(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    return (weights * softplus(-0.4 * margins(scores - before))).mean()


def wpo_ipo(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    return (weights * (margins((scores - before) / TOKENS) - 1 / (2 * 0.4)).square()).mean()


def aot(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    del weights
    return softplus(-0.4 * (margins(scores).sort().values - margins(before).sort().values)).mean()


def aot_unpaired(scores: Tensor, before: Tensor, weights: Tensor) -> Tensor:
    del weights
    gains = scores - before
    return softplus(-0.4 * (gains[0::2].sort().values - gains[1::2].sort().values)).mean()


def objective_of(build: Callable[[PreferenceSection], Objective], **keys: Any) -> Objective:
    return build(PreferenceSection(**keys))


METHODS: dict[str, tuple[Objective, Any]] = {
    "ipo": (objective_of(build_dpo, rl="ipo", rl_beta=0.4), ipo),
    "simpo": (objective_of(build_simpo, rl="simpo", rl_beta=2.5, simpo_gamma=0.8, cpo_alpha=0.3), simpo),
    "orpo": (objective_of(build_orpo, rl="orpo", orpo_alpha=0.2), orpo),
    "wpo": (objective_of(build_dpo, rl="dpo", rl_beta=0.4, dpo_use_weighting=True), wpo),
    "wpo_ipo": (objective_of(build_dpo, rl="ipo", rl_beta=0.4, dpo_use_weighting=True), wpo_ipo),
    "aot": (objective_of(build_dpo, rl="dpo", rl_beta=0.4, dpo_loss_type=("aot",)), aot),
    "aot_unpaired": (
        objective_of(build_dpo, rl="dpo", rl_beta=0.4, dpo_loss_type=("aot_unpaired",)),
        aot_unpaired,
    ),
}


def true_weights(model: Any, samples: Sequence[Sample]) -> Tensor:
    """What each pair counts, [P]: of each token its log-probability over that of two draws being one token."""
    means = []
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))
        logs = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        places = np.flatnonzero(sample.labels != IGNORE)
        values = [
            logs[place - 1, ids[place]] - logs[place - 1].exp().square().sum().log() for place in places
        ]
        means.append(sum(values) / len(values))
    found = torch.stack(means)
    return (found[0::2] + found[1::2]).exp()


def true_step(policy: Any, reference: Any, loss: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients in fp64."""
    policy, reference = copy.deepcopy(policy).double(), copy.deepcopy(reference).double()
    with torch.no_grad():
        before, weights = true_scores(reference, PAIRS), true_weights(policy, PAIRS)
    value = loss(true_scores(policy, PAIRS), before, weights)
    value.backward()
    return value.item(), {
        name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None
    }


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    reference = build_model()
    return changed(reference), reference


@pytest.fixture(scope="module")
def truths(models: tuple[Any, Any]) -> dict[str, tuple[float, dict[str, Tensor]]]:
    return {name: true_step(*models, loss) for name, (_, loss) in METHODS.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("chunked", "packs", "flatten", "keys"),
    [
        (True, None, False, EACH),
        (False, None, False, EACH),
        (True, None, False, {"micro_batch_size": 5, "gradient_accumulation_steps": 1}),
        (False, None, True, {"micro_batch_size": 2, "gradient_accumulation_steps": 3}),
        (True, [[4, 2], [1, 0, 3], []], True, {"micro_batch_size": 1, "gradient_accumulation_steps": 3}),
    ],
    ids=["one by one", "logits", "one batch", "odd batches, flat, logits", "packed, an empty pack"],
)
def test_loss_and_gradients_are_the_truth(
    write_config: Any,
    models: tuple[Any, Any],
    truths: Any,
    method: str,
    chunked: bool,
    packs: Any,
    flatten: bool,
    keys: dict[str, Any],
):
    policy, reference = models
    logs, got = take_pair_step(
        copy.deepcopy(policy),
        reference,
        PAIRS,
        write_config,
        objective=METHODS[method][0],
        chunked=chunked,
        packs=packs,
        flatten=flatten,
        **keys,
    )
    truth, wanted = truths[method]
    assert logs["loss"] == pytest.approx(truth, rel=1e-5, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_validations_have_the_same_loss(write_config: Any, models: tuple[Any, Any], truths: Any, method: str):
    policy, reference = models
    for size in (1, 2):
        trainer = build_pair_trainer(
            copy.deepcopy(policy),
            reference,
            PAIRS,
            write_config,
            objective=METHODS[method][0],
            eval_batch_size=size,
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(truths[method][0], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", ["simpo", "orpo"])
def test_rewards_without_a_reference_are_what_is_compared(
    write_config: Any, models: tuple[Any, Any], method: str
):
    policy, reference = models
    objective = METHODS[method][0]
    logs, _ = take_pair_step(
        copy.deepcopy(policy), reference, PAIRS, write_config, objective=objective, **EACH
    )
    with torch.no_grad():
        means = true_scores(copy.deepcopy(policy).double(), PAIRS) / TOKENS
    scale = {"simpo": 2.5, "orpo": 0.2}[method]
    assert logs["rewards/chosen"] == pytest.approx(scale * means[0::2].mean().item(), rel=1e-5)
    assert logs["rewards/rejected"] == pytest.approx(scale * means[1::2].mean().item(), rel=1e-5)
    assert logs["rewards/accuracies"] == (margins(means) > 0).double().mean().item()


@pytest.mark.parametrize(
    ("build", "keys", "loss"),
    [
        # A margin of nothing: the whole width is missing
        (build_dpo, {"rl": "ipo", "rl_beta": 0.4}, (1 / 0.8) ** 2),
        (build_dpo, {"rl": "dpo"}, math.log(2)),
    ],
)
def test_the_first_step_knows_no_difference(write_config: Any, build: Any, keys: Any, loss: float):
    model = build_model()
    logs, _ = take_pair_step(model, model, PAIRS, write_config, objective=objective_of(build, **keys), **EACH)
    assert logs["loss"] == pytest.approx(loss, abs=1e-6)
    assert logs["rewards/margins"] == 0


def test_of_two_equal_answers_nothing_is_told(write_config: Any):
    """Without a reference the loss of equal sides is that of a margin of nothing."""
    model = build_model()
    same = [PAIRS[0], PAIRS[0]]
    for build, keys, wanted in (
        (build_simpo, {"rl": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}, math.log(1 + math.exp(0.5))),
        (build_dpo, {"rl": "ipo"}, 25.0),
    ):
        logs, _ = take_pair_step(
            model,
            model,
            same,
            write_config,
            objective=objective_of(build, **keys),
            gradient_accumulation_steps=1,
        )
        assert logs["loss"] == pytest.approx(wanted, rel=1e-5)


def test_settings_that_are_left_out_are_those_of_trl():
    simpo_options = build_simpo(PreferenceSection(rl="simpo")).loss.keywords["options"]  # type: ignore[attr-defined]
    assert (simpo_options.beta, simpo_options.gamma, simpo_options.cpo_alpha) == (0.1, 0.5, 1.0)
    for keys in ({"orpo_alpha": 0.3}, {"rl_beta": 0.3}):
        assert build_orpo(PreferenceSection(rl="orpo", **keys)).loss.keywords["options"].alpha == 0.3  # type: ignore[attr-defined]
    assert build_orpo(PreferenceSection(rl="orpo")).scale == 0.1


def test_scores_of_a_step_are_cut_with_the_rows_of_its_batches(write_config: Any, models: tuple[Any, Any]):
    """A step that is made again row by row, for want of memory, has the same loss."""
    policy, reference = models
    objective = METHODS["aot_unpaired"][0]
    trainer = build_pair_trainer(
        copy.deepcopy(policy), reference, PAIRS, write_config, objective=objective, micro_batch_size=3
    )
    table, collate = trainer.train_dataset.table, trainer.data_collator
    batches: list[Any] = [
        collate([table.take(0), table.take(1) + table.take(2)]),
        collate([table.take(3), (), table.take(4)]),
    ]
    trainer._step = score_step(trainer, batches)
    assert [batch["places"].tolist() for batch in batches] == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4]]
    with torch.no_grad():
        whole = [trainer.sum_losses(trainer.model, batch).item() for batch in batches]
        rows = [
            [trainer.sum_losses(trainer.model, row).item() for row in cut_rows(batch)] for batch in batches
        ]
    assert [sum(each) for each in rows] == pytest.approx(whole, rel=1e-5)
    # A batch for itself is another matter
    del batches[0]["places"]
    with torch.no_grad():
        assert trainer.sum_losses(trainer.model, batches[0]).item() != pytest.approx(whole[0], rel=1e-3)


def test_length_is_told_from_what_is_better(write_config: Any, models: tuple[Any, Any]):
    """Of five pairs two have the longer answer chosen, one the shorter, and in two they are alike."""
    policy, reference = (copy.deepcopy(model).double() for model in models)
    with torch.no_grad():
        gains = true_scores(policy, PAIRS) - true_scores(reference, PAIRS)
    longer = margins(TOKENS).sign()
    objective = METHODS["wpo"][0]
    logs, _ = take_pair_step(
        copy.deepcopy(models[0]), reference.float(), PAIRS, write_config, objective=objective, **EACH
    )
    assert logs["lengths/longer_chosen"] == (1 + 0 + 0.5 + 0.5 + 1) / 5
    wanted = ((longer * margins(gains).sign() + 1) / 2).mean().item()
    assert logs["rewards/longer_preferred"] == pytest.approx(wanted)
    ratios = (gains[0::2] + gains[1::2]) / (TOKENS[0::2] + TOKENS[1::2])
    assert logs["logps/token_ratios"] == pytest.approx(ratios.mean().item(), rel=1e-4)
    assert {"logps/token_ratios"} == set(objective.measures) - set(METHODS["orpo"][0].measures)
