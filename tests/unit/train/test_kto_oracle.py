"""Loss, gradients and rewards of a batch are those of TRL's KTOTrainer, given the same ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_model
from tests.unit.train.kto_steps import OPTIONS, matched, random_answers, take_kto_step
from tests.unit.train.pair_steps import changed
from tests.unit.train.steps import largest_difference

ANSWERS = random_answers([(20, 30, True), (7, 40, False), (33, 9, True), (12, 1, False)])


def take_step_of_trl(policy: Any, reference: Any, tokenizer: Any, output: Path) -> tuple[Any, Any]:
    """Its loss, gradients and metrics of one batch, with the mismatched answers that we have."""
    from datasets import Dataset
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOConfig, KTOTrainer

    rows = Dataset.from_list([{"prompt": "a", "completion": "b", "label": True}] * 4)
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=KTOConfig(
            output_dir=str(output),
            beta=OPTIONS.beta,
            desirable_weight=OPTIONS.desirable_weight,
            undesirable_weight=OPTIONS.undesirable_weight,
            per_device_train_batch_size=4,
            train_sampling_strategy="sequential",
            use_cpu=True,
            report_to=[],
            bf16=False,
            fp16=False,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    table = matched(ANSWERS)
    examples = []
    for number, start in enumerate(table.prompt_lengths):
        answer, other = (sample.input_ids.tolist() for sample in table.take(number))
        examples.append(
            {
                "prompt_ids": answer[:start],
                "completion_ids": answer[start:],
                "KL_completion_ids": other[start:],
                "label": ANSWERS[number].is_desirable,
            }
        )
    batch = DataCollatorForUnpairedPreference(pad_token_id=0)(examples)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None
    }
    return (loss.item(), gradients), {name: values[0] for name, values in trainer._metrics["train"].items()}


@pytest.mark.filterwarnings("ignore")
def test_a_step_is_that_of_trl(write_config: Any, tokenizer: Any, tmp_path: Path):
    pytest.importorskip("trl")
    policy = build_model(len(tokenizer))
    reference = changed(
        policy
    )  # What the policy writes is then likelier by itself: the divergence is above 0
    (loss, gradients), metrics = take_step_of_trl(
        copy.deepcopy(policy), copy.deepcopy(reference), tokenizer, tmp_path
    )
    assert metrics["kl"] > 0.1
    logs, ours = take_kto_step(
        policy, reference, ANSWERS, write_config, micro_batch_size=2, gradient_accumulation_steps=2
    )
    assert logs["loss"] == pytest.approx(loss, abs=1e-5)
    assert largest_difference(ours, gradients) < 1e-4
    for name in (
        "kl",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ):
        assert logs[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-4), name
