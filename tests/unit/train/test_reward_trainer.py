"""Scores, loss and gradients over pairs are the slow truth, however pairs are packed, padded and shared out."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import random_pairs
from tests.unit.train.steps import CPU, GradientCatcher, largest_difference

from siredon.config.load import load_config
from siredon.data.collate import Collator, PackDataset
from siredon.data.pack import keep_single
from siredon.data.pairs import PAIR
from siredon.data.table import JoinedTable, build_table
from siredon.data.types import Sample
from siredon.model.precision import Precision
from siredon.model.score_head import find_score_head
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.isolation import find_leak
from siredon.train.reward_trainer import RewardTrainer

#: Five pairs with sides of very unequal length.
PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9), (12, 1, 1), (1, 17, 3)])
EACH = {"gradient_accumulation_steps": 5}


def build_judge(seed: int = 0) -> Any:
    """A Llama of two layers with a head of one score."""
    from transformers import LlamaForSequenceClassification

    config = copy.deepcopy(build_model().config)
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config)


def build_trainer(
    model: Any,
    samples: Sequence[Sample],
    write_config: Any,
    *,
    packs: Any = None,
    flatten: bool = False,
    coefficient: float = 0.0,
    **keys: Any,
) -> RewardTrainer:
    """The real trainer, without kernels and callbacks."""
    output = tempfile.mkdtemp(prefix="siredon-step-")
    keys = {"max_steps": 1, "max_grad_norm": 0, "save_strategy": "no", "output_dir": output, **keys}
    config, _ = load_config(str(write_config(**keys)))
    table = JoinedTable((build_table(samples),), PAIR)
    dataset = PackDataset(table, keep_single(len(table)) if packs is None else packs)
    precision = Precision(torch.float32, None, False)
    return RewardTrainer(
        head=find_score_head(model),
        center_coefficient=coefficient,
        selects_logits=False,
        model=model,
        args=build_arguments(config, count_steps(config, len(dataset)), precision, CPU),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=Collator(0, flatten=flatten, marks_samples=True),
    )


def take_step(
    model: Any, samples: Sequence[Sample], write_config: Any, **options: Any
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """What is logged of one optimizer step, and its gradients."""
    trainer = build_trainer(copy.deepcopy(model), samples, write_config, **options)
    catcher = GradientCatcher()
    trainer.add_callback(catcher)
    trainer.train()
    return next(row for row in trainer.state.log_history if "loss" in row), catcher.gradients


def true_scores(model: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """The score of each sample, [S], one at a time, from body and head."""
    found = []
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))
        hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state
        found.append(model.score(hidden)[0, -1, 0])
    return torch.stack(found)


def true_step(
    model: Any, samples: Sequence[Sample], coefficient: float = 0.0
) -> tuple[float, dict[str, torch.Tensor], torch.Tensor]:
    """Loss, gradients and scores in fp64, written out."""
    model = copy.deepcopy(model).double()
    scores = true_scores(model, samples)
    margins = torch.tensor([sample.margin for sample in samples[0::2]], dtype=torch.float64)
    chosen, rejected = scores[0::2], scores[1::2]
    losses = (1 + (rejected - chosen + margins).exp()).log() + coefficient * (chosen + rejected) ** 2
    losses.mean().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return losses.mean().item(), gradients, scores.detach()


def with_margins(samples: Sequence[Sample]) -> list[Sample]:
    return [
        replace(sample, margin=(0.5, 0.0, 2.0, -1.0, 0.25)[place // 2])
        for place, sample in enumerate(samples)
    ]


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
@pytest.mark.parametrize("has_margins", [False, True])
def test_loss_gradients_and_measures_are_the_truth(write_config: Any, coefficient: float, has_margins: bool):
    model, samples = build_judge(), with_margins(PAIRS) if has_margins else PAIRS
    truth, wanted, scores = true_step(model, samples, coefficient)
    logs, got = take_step(model, samples, write_config, coefficient=coefficient, **EACH)
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-5
    chosen, rejected = scores[0::2], scores[1::2]
    assert {name: value for name, value in logs.items() if name.startswith("rewards/")} == pytest.approx(
        {
            "rewards/chosen": chosen.mean().item(),
            "rewards/rejected": rejected.mean().item(),
            "rewards/accuracies": (chosen > rejected).double().mean().item(),
            "rewards/margins": (chosen - rejected).mean().item(),
            "rewards/mean": scores.mean().item(),
            "rewards/min": scores.min().item(),
            "rewards/max": scores.max().item(),
        },
        abs=1e-5,
    )


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
    model, samples = build_judge(), with_margins(PAIRS)
    truth, wanted, scores = true_step(model, samples)
    logs, got = take_step(model, samples, write_config, packs=packs, flatten=flatten, **keys)
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-5
    assert logs["rewards/min"] == pytest.approx(scores.min().item(), abs=1e-5)
    assert logs["rewards/max"] == pytest.approx(scores.max().item(), abs=1e-5)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_validation_is_the_truth_and_trains_nothing(write_config: Any, flatten: bool, size: int):
    model = build_judge()
    truth, _, scores = true_step(model, PAIRS)
    found = build_trainer(model, PAIRS, write_config, flatten=flatten, eval_batch_size=size).evaluate()
    assert found["eval_loss"] == pytest.approx(truth, abs=1e-5)
    assert found["eval_rewards/margins"] == pytest.approx(
        (scores[0::2] - scores[1::2]).mean().item(), abs=1e-5
    )
    assert found["eval_rewards/mean"] == pytest.approx(scores.mean().item(), abs=1e-5)
    assert found["eval_rewards/min"] == pytest.approx(scores.min().item(), abs=1e-5)
    assert found["eval_rewards/max"] == pytest.approx(scores.max().item(), abs=1e-5)


def test_swapped_sides_flip_the_margin(write_config: Any):
    model = build_judge()
    swapped = [PAIRS[place ^ 1] for place in range(len(PAIRS))]
    first, _ = take_step(model, PAIRS, write_config, **EACH)
    second, _ = take_step(model, swapped, write_config, **EACH)
    assert first["rewards/margins"] == pytest.approx(-second["rewards/margins"], abs=1e-6)
    assert first["rewards/accuracies"] == pytest.approx(1 - second["rewards/accuracies"])
    assert first["rewards/mean"] == pytest.approx(second["rewards/mean"], abs=1e-6)


def test_a_score_by_hand(write_config: Any):
    """Scores 2 and 1 with a margin of 1 are level: ln 2; the middle is 1.5, so centering adds 0.1 * 9."""
    model = build_judge()
    trainer = build_trainer(model, PAIRS, write_config, coefficient=0.1)
    losses = trainer._measure_losses(torch.tensor([2.0, 1.0]), {"margins": torch.tensor([1.0, 1.0])})  # type: ignore[typeddict-item]
    assert losses.tolist() == pytest.approx([math.log(2) + 0.9], abs=1e-6)


def test_a_last_token_that_looks_like_padding_is_read(write_config: Any):
    """The model's own class would look for the last token that is no padding, and pass over it."""
    model = build_judge()
    ends = [
        replace(sample, input_ids=np.append(sample.input_ids, 0).astype(np.int32)) for sample in PAIRS[:2]
    ]
    ends = [replace(sample, labels=sample.input_ids) for sample in ends]
    trainer = build_trainer(model, ends, write_config)
    with torch.no_grad():
        batch = trainer.data_collator([tuple(ends)])
        found = trainer.score_samples(model, batch)
        assert found.double() == pytest.approx(true_scores(model, ends).double(), abs=1e-5)
        longer = replace(trainer.data_collator, pad_to=256)([tuple(ends)])
        assert trainer.score_samples(model, longer) == pytest.approx(found, abs=1e-5)
        own = model(input_ids=batch["input_ids"][:, : len(ends[0].input_ids)], use_cache=False).logits[0, 0]
        assert abs(own - found[0]) > 1e-4


def test_documents_are_isolated(write_config: Any):
    trainer = build_trainer(build_judge(), PAIRS, write_config)
    assert find_leak(trainer, 2) is None


def test_what_was_measured_outlives_a_checkpoint(write_config: Any):
    """Extremes of several ranks come back as those of the first, and lower ones still lower them."""
    trainer = build_trainer(build_judge(), PAIRS, write_config)
    kept = {"step": 1, "loss": 0.0, "pairs": [2.0, 1, 1, 1, 1, 1], "extremes": [[2.0, -0.5, 0.75]]}
    trainer._tr_loss = torch.zeros(())  # As training begins with
    trainer.restore_log_(kept)
    trainer._widen_(torch.tensor([-0.75, 0.5], dtype=torch.float64), 1)
    assert trainer._sums["extremes"].tolist() == [[3.0, -0.75, 0.75]]
