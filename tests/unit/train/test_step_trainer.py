"""Loss, gradients and shares over steps are the slow truth, however answers are packed and shared out."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import CPU, GradientCatcher, largest_difference

from siredon.config.load import load_config
from siredon.data.collate import Collator, PackDataset
from siredon.data.pack import keep_single
from siredon.data.table import JoinedTable, build_table
from siredon.data.types import IGNORE, Sample
from siredon.model.noise import leave_dropout_out_
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.step_trainer import StepTrainer


def random_steps(ends: Sequence[Sequence[int]], seed: int = 0) -> list[Sample]:
    """Answers whose steps end at these tokens, right and wrong by turns."""
    random, samples = np.random.default_rng(seed), []
    for places in ends:
        labels = np.full(places[-1] + 1, IGNORE, dtype=np.int32)
        labels[list(places)] = [(number + len(places)) % 2 for number in range(len(places))]
        samples.append(Sample(random.integers(8, 500, len(labels)).astype(np.int32), labels))
    return samples


ANSWERS = random_steps([(5, 9, 14), (3,), (20, 41), (2, 3, 4, 5), (30,)])


def build_judge() -> Any:
    """A Llama of two layers that tells two classes apart."""
    from transformers import LlamaForTokenClassification

    config = copy.deepcopy(build_model().config)
    config.num_labels = 2
    torch.manual_seed(0)
    model = LlamaForTokenClassification(config)
    leave_dropout_out_(model)
    return model


def build_trainer(
    model: Any, write_config: Any, *, packs: Any = None, flatten: bool = False, **keys: Any
) -> StepTrainer:
    output = tempfile.mkdtemp(prefix="siredon-step-")
    keys = {"max_steps": 1, "max_grad_norm": 0, "save_strategy": "no", "output_dir": output, **keys}
    config, _ = load_config(str(write_config(**keys)))
    table = JoinedTable((build_table(ANSWERS),))
    dataset = PackDataset(table, keep_single(len(table)) if packs is None else packs)
    precision = Precision(torch.float32, None, False)
    return StepTrainer(
        selects_logits=False,
        model=model,
        args=build_arguments(config, count_steps(config, len(dataset)), precision, CPU),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=Collator(0, flatten=flatten),
    )


def true_step(model: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    """Loss, gradients and shares in fp64, one answer at a time."""
    model = copy.deepcopy(model).double()
    losses, right = [], []
    for sample in ANSWERS:
        logits = model(input_ids=torch.from_numpy(sample.input_ids.astype("int64"))[None]).logits[0]
        for place in np.flatnonzero(sample.labels != IGNORE):
            label = int(sample.labels[place])
            losses.append(-logits[place].log_softmax(-1)[label])
            right.append((label, bool(logits[place, label] > logits[place, 1 - label])))
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    found = {
        "accuracies": np.mean([hit for _, hit in right]),
        "right/found": np.mean([hit for label, hit in right if label == 1]),
        "wrong/found": np.mean([hit for label, hit in right if label == 0]),
    }
    return loss.item(), gradients, found


@pytest.mark.parametrize(
    ("packs", "flatten", "keys"),
    [
        (None, False, {"micro_batch_size": 1, "gradient_accumulation_steps": 5}),
        (None, False, {"micro_batch_size": 2, "gradient_accumulation_steps": 3}),
        (None, True, {"micro_batch_size": 5, "gradient_accumulation_steps": 1}),
        ([[0, 3], [1, 2, 4]], False, {"micro_batch_size": 2, "gradient_accumulation_steps": 1}),
        ([[4, 2], [1, 0, 3], []], True, {"micro_batch_size": 1, "gradient_accumulation_steps": 3}),
    ],
    ids=["each", "odd batches", "flattened", "packed", "an empty pack"],
)
def test_loss_gradients_and_shares_are_the_truth(
    write_config: Any, packs: Any, flatten: bool, keys: dict[str, Any]
):
    model = build_judge()
    truth, wanted, shares = true_step(model)
    trainer = build_trainer(copy.deepcopy(model), write_config, packs=packs, flatten=flatten, **keys)
    before = trainer.evaluate()
    catcher = GradientCatcher()
    trainer.add_callback(catcher)
    trainer.train()
    logs = next(row for row in trainer.state.log_history if "loss" in row)
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert before["eval_loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(catcher.gradients, wanted) < 1e-5
    for name, share in shares.items():
        assert logs[name] == pytest.approx(share), name
        assert before[f"eval_{name}"] == pytest.approx(share), name
