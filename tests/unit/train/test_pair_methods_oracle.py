"""Loss, gradients and rewards of a batch are those of TRL's trainers of each method, given the same ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import changed, random_pairs, take_pair_step
from tests.unit.train.steps import largest_difference

from siredon.config.sections.preference import PreferenceSection
from siredon.data.types import IGNORE
from siredon.train.objective import build_dpo, build_orpo, build_simpo

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9)])
ONE_BATCH = {"micro_batch_size": 3, "gradient_accumulation_steps": 1}
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def common(output: Path, **options: Any) -> dict[str, Any]:
    """Arguments that every trainer of TRL takes."""
    quiet: dict[str, Any] = {"use_cpu": True, "report_to": [], "bf16": False, "fp16": False}
    return {"output_dir": str(output), **quiet, **options}


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def pad(side: int) -> dict[str, torch.Tensor]:
    """Answers of one side, behind their prompts, padded on the right, as the trainers without a reference take them."""
    samples = PAIRS[side::2]
    length = max(len(sample.input_ids) for sample in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels, mask = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        num = len(sample.input_ids)
        ids[row, :num] = torch.from_numpy(sample.input_ids)
        labels[row, :num] = torch.from_numpy(sample.labels)
        mask[row, :num] = 1
    name = ("chosen", "rejected")[side]
    return {f"{name}_input_ids": ids, f"{name}_labels": labels, f"{name}_attention_mask": mask}


BATCH = {**pad(0), **pad(1)}


def build_without_reference(kind: str, policy: Any, tokenizer: Any, output: Path, **options: Any) -> Any:
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    if kind == "cpo":
        from trl.experimental.cpo import CPOConfig as TrlConfig
        from trl.experimental.cpo import CPOTrainer as TrlTrainer
    else:
        from trl.experimental.orpo import ORPOConfig as TrlConfig
        from trl.experimental.orpo import ORPOTrainer as TrlTrainer
    return TrlTrainer(
        model=policy,
        args=TrlConfig(**common(output, **options)),
        train_dataset=rows,
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_simpo_is_that_of_trl(write_config: Any, tokenizer: Any, tmp_path: Path, alpha: float):
    start = build_model(len(tokenizer))
    policy = changed(start)
    settings = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.6, "cpo_alpha": alpha}
    trainer = build_without_reference("cpo", copy.deepcopy(policy), tokenizer, tmp_path, **settings)
    trainer.model.train()
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, BATCH)
    loss.backward()
    section = PreferenceSection(rl="simpo", rl_beta=2.0, simpo_gamma=0.6, cpo_alpha=alpha)
    logs, ours = take_pair_step(
        policy, start, PAIRS, write_config, objective=build_simpo(section), **ONE_BATCH
    )
    assert logs["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert largest_difference(ours, gradients_of(trainer.model)) < 1e-4
    for name in REWARDS:
        assert logs[name] == pytest.approx(float(metrics[name]), rel=1e-4, abs=1e-4), name


def test_the_odds_of_orpo_are_those_of_trl_and_the_prompt_is_not_imitated(
    write_config: Any, tokenizer: Any, tmp_path: Path
):
    """TRL imitates the prompt too, the paper does not: the terms are held against each other one by one."""
    start = build_model(len(tokenizer))
    policy = changed(start)
    trainer = build_without_reference("orpo", copy.deepcopy(policy), tokenizer, tmp_path, beta=0.4)
    trainer.model.train()
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, BATCH)
    losses, *_ = trainer.odds_ratio_loss(chosen, rejected)
    tokens = (BATCH["chosen_labels"] != IGNORE).sum(1)
    imitated = -(chosen * tokens).sum() / tokens.sum()
    loss = imitated - losses.mean()
    loss.backward()
    whole, metrics = trainer.get_batch_loss_metrics(trainer.model, BATCH)
    section = PreferenceSection(rl="orpo", orpo_alpha=0.4)
    logs, ours = take_pair_step(
        policy, start, PAIRS, write_config, objective=build_orpo(section), **ONE_BATCH
    )
    assert logs["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert largest_difference(ours, gradients_of(trainer.model)) < 1e-4
    for name in REWARDS:
        assert logs[name] == pytest.approx(float(metrics[name]), rel=1e-4, abs=1e-4), name
    # Prompt tokens are random ids: what TRL adds of them is no rounding
    assert abs(whole.item() - loss.item()) > 1e-3


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({"rl": "ipo"}, {"loss_type": ["ipo"]}),
        ({"rl": "ipo", "dpo_use_weighting": True}, {"loss_type": ["ipo"], "use_weighting": True}),
        ({"rl": "dpo", "dpo_use_weighting": True}, {"loss_type": ["sigmoid"], "use_weighting": True}),
        ({"rl": "dpo", "dpo_loss_type": ("aot",)}, {"loss_type": ["aot"]}),
        ({"rl": "dpo", "dpo_loss_type": ("aot_unpaired",)}, {"loss_type": ["aot_unpaired"]}),
    ],
    ids=["ipo", "ipo weighed", "dpo weighed", "aot", "aot_unpaired"],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_what_compares_with_a_reference_is_that_of_trl(
    write_config: Any,
    tokenizer: Any,
    tmp_path: Path,
    keys: dict[str, Any],
    settings: dict[str, Any],
    chunked: bool,
):
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOConfig, DPOTrainer

    reference = build_model(len(tokenizer))
    policy = changed(reference)
    trainer = DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(**common(tmp_path, beta=0.3, **settings)),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    examples = []
    for chosen, rejected in zip(PAIRS[0::2], PAIRS[1::2], strict=True):
        start = int((chosen.labels == IGNORE).sum())
        sides = {"chosen_ids": chosen.input_ids[start:], "rejected_ids": rejected.input_ids[start:]}
        prompt = chosen.input_ids[:start].tolist()
        examples.append({"prompt_ids": prompt, **{name: ids.tolist() for name, ids in sides.items()}})
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=0)(examples))
    loss.backward()
    objective = build_dpo(PreferenceSection(rl_beta=0.3, **keys))
    logs, ours = take_pair_step(
        policy, reference, PAIRS, write_config, objective=objective, chunked=chunked, **ONE_BATCH
    )
    assert logs["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert largest_difference(ours, gradients_of(trainer.model)) < 1e-4
    for name in REWARDS:
        wanted = trainer._metrics["train"][name][0]
        assert logs[name] == pytest.approx(wanted, rel=1e-4, abs=1e-4), name
