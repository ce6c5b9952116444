"""Loss, gradients and rewards of a batch are those of TRL's DPOTrainer, given the same ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.pair_steps import changed, random_pairs, take_pair_step
from tests.unit.train.steps import largest_difference

from siredon.data.types import IGNORE

PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9)])


def take_step_of_trl(policy: Any, reference: Any, tokenizer: Any, output: Path) -> tuple[Any, Any]:
    """Its loss, gradients and metrics of one batch, which it is given as its collator makes it."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOConfig, DPOTrainer

    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(output_dir=str(output), beta=0.3, use_cpu=True, report_to=[], bf16=False, fp16=False),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    examples = []
    for chosen, rejected in zip(PAIRS[0::2], PAIRS[1::2], strict=True):
        start = int((chosen.labels == IGNORE).sum())
        examples.append(
            {
                "prompt_ids": chosen.input_ids[:start].tolist(),
                "chosen_ids": chosen.input_ids[start:].tolist(),
                "rejected_ids": rejected.input_ids[start:].tolist(),
            }
        )
    batch = DataCollatorForPreference(pad_token_id=0)(examples)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None
    }
    metrics = {name: values[0] for name, values in trainer._metrics["train"].items()}
    return (loss.item(), gradients), metrics


@pytest.mark.filterwarnings("ignore")
def test_a_step_is_that_of_trl(write_config: Any, tokenizer: Any, tmp_path: Path):
    pytest.importorskip("trl")
    reference = build_model(len(tokenizer))
    policy = changed(reference)
    (loss, gradients), metrics = take_step_of_trl(
        copy.deepcopy(policy), copy.deepcopy(reference), tokenizer, tmp_path
    )
    logs, ours = take_pair_step(
        policy, reference, PAIRS, write_config, micro_batch_size=3, gradient_accumulation_steps=1
    )
    assert logs["loss"] == pytest.approx(loss, abs=1e-5)
    assert largest_difference(ours, gradients) < 1e-4
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert logs[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-4), name
    assert logs["rewards/accuracies"] == pytest.approx(metrics["rewards/accuracies"])
    assert torch.isfinite(torch.tensor(list(metrics.values()))).all()
