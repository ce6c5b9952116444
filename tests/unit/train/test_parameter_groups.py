"""Learning rates and weight decay of groups of parameters, on a tiny Llama with and without LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import build_steps_trainer

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.optimizer import (
    DionSection,
    GrokfastSection,
    OptimizerSection,
    QGaloreSection,
)
from siredon.errors import ModelError
from siredon.train.optimize import OptimizerPlan

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def llama() -> Any:
    return build_model(tied=False)


@pytest.fixture(scope="module")
def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    options = {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}
    return get_peft_model(build_model(tied=False), LoraConfig(r=4, task_type="CAUSAL_LM", **options))


def optimize(model: Any, adapter: dict[str, Any] | None = None, **keys: Any) -> torch.optim.Optimizer:
    """The optimizer that the real trainer makes."""
    trainer = build_steps_trainer(model)
    trainer.optimizing = OptimizerPlan(
        OptimizerSection(**{"learning_rate": 1e-3, "optimizer": "adamw_torch", **keys}),
        DionSection(),
        QGaloreSection(),
        GrokfastSection(),
        AdapterSection(**(adapter or {})),
        0,
    )
    return trainer.create_optimizer()


def rates_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Name -> learning rate and weight decay; every trained parameter is in one group and no more."""
    names = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
    found = [
        (names[id(value)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for value in group["params"]
    ]
    assert len(found) == len(dict(found)) == len(names)
    return dict(found)


def test_biases_and_norms_have_no_weight_decay_and_embeddings_do(llama: Any):
    rates = rates_of(llama, optimize(llama, weight_decay=0.1))
    for name, rate in rates.items():
        assert rate == (1e-3, 0.0 if "norm" in name else 0.1), name


def test_groups_have_their_rates_and_a_schedule_scales_each(llama: Any):
    keys = {
        "lr_groups": (
            {"name": "attention", "modules": ["q_proj", "k_proj"], "lr": 5e-4},
            {"name": "last", "modules": ["layers.1."], "lr": 2e-3},
        ),
        "embedding_lr_scale": 0.1,
        "weight_decay": 0.1,
    }
    optimizer = optimize(llama, **keys)

    def expected(name: str) -> float:
        if "q_proj" in name or "k_proj" in name:  # the first group that a name fits
            return 5e-4
        if "layers.1." in name:
            return 2e-3
        return 1e-4 if "embed_tokens" in name or "lm_head" in name else 1e-3

    rates = rates_of(llama, optimizer)
    assert {name: rate for name, (rate, _) in rates.items()} == {name: expected(name) for name in rates}
    assert optimizer.param_groups[0]["lr"] == 1e-3
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.75 * lr for lr in before])


def test_embeddings_and_head_have_a_rate_of_their_own_also_where_they_are_tied():
    tied = build_model(tied=True)
    rates = rates_of(tied, optimize(tied, embedding_lr=3e-4))
    assert [name for name, (rate, _) in rates.items() if rate == 3e-4] == ["model.embed_tokens.weight"]


def test_lora_plus_gives_b_a_higher_rate_and_embedding_adapters_a_low_one(adapted: Any):
    plus = {**LORA, "loraplus_lr_ratio": 16, "loraplus_lr_embedding": 1e-6}
    optimizer = optimize(adapted, plus)
    rates = rates_of(adapted, optimizer)
    assert len(rates) == 2 * 2 + 2 + 1
    for name, (rate, _) in rates.items():
        expected = 1e-6 if "lora_embedding_" in name else 16e-3 if "lora_B" in name else 1e-3
        assert rate == expected, name
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_adapters_of_embeddings_and_a_head_trained_in_full_are_embeddings(adapted: Any):
    rates = rates_of(adapted, optimize(adapted, LORA, embedding_lr=3e-4))
    for name, (rate, _) in rates.items():
        assert rate == (1e-3 if "q_proj" in name else 3e-4), name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"lr_groups": ({"name": "a", "modules": ["q_porj"], "lr": 1e-4},)},
            r"(?s)`q_porj` of the group `a` .*Did you mean `q_proj`\? Parts .*k_proj",
        ),
        (
            {
                "lr_groups": (
                    {"name": "all", "modules": ["layers"], "lr": 1e-4},
                    {"name": "b", "modules": ["q_proj"], "lr": 1e-5},
                )
            },
            "group `b` belongs to an earlier group already",
        ),
    ],
)
def test_a_group_that_would_be_empty_is_refused(llama: Any, keys: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        optimize(llama, **keys)


def test_rates_of_what_is_not_trained_are_refused(llama: Any):
    with pytest.raises(ModelError, match="no trained LoRA B"):
        optimize(llama, {"loraplus_lr_ratio": 16})
    frozen = build_model()
    frozen.get_input_embeddings().requires_grad_(False)
    with pytest.raises(ModelError, match="embedding_lr_scale: no embedding is trained"):
        optimize(frozen, embedding_lr_scale=0.5)
    frozen.requires_grad_(False)
    with pytest.raises(ModelError, match="every weight is frozen"):
        optimize(frozen)


def test_a_trainer_without_a_plan_has_the_optimizer_of_transformers(llama: Any):
    assert isinstance(build_steps_trainer(llama).create_optimizer(), torch.optim.AdamW)
