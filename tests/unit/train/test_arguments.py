from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.train.steps import CPU

from siredon.config.load import load_config
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps


def arguments(write_config: Any, num_packs: int = 40, **keys: Any) -> Any:
    config, _ = load_config(str(write_config(max_steps=..., num_epochs=3, **keys)))
    schedule = count_steps(config, num_packs)
    return build_arguments(config, schedule, Precision(torch.float32, None, False), CPU)


@pytest.mark.parametrize(("packs", "per_epoch"), [(1, 1), (2, 1), (3, 2), (40, 20), (41, 21)])
def test_steps_per_epoch_round_up(write_config: Any, packs: int, per_epoch: int):
    config, _ = load_config(str(write_config(max_steps=..., num_epochs=3)))
    assert count_steps(config, packs).steps_per_epoch == per_epoch
    assert count_steps(config, packs).num_steps == 3 * per_epoch


def test_max_steps_wins(write_config: Any):
    config, _ = load_config(str(write_config(max_steps=7, num_epochs=3)))
    assert count_steps(config, 40).num_steps == 7


def test_numbers_per_epoch_become_steps(write_config: Any):
    got = arguments(write_config, val_set_size=0.1, evals_per_epoch=4, saves_per_epoch=2)
    assert (got.eval_strategy, got.eval_steps) == ("steps", 5)
    assert (got.save_strategy, got.save_steps) == ("steps", 10)


def test_fractions_of_the_run_become_steps(write_config: Any):
    got = arguments(write_config, val_set_size=0.1, eval_steps=0.25, save_steps=0.5)
    assert (got.eval_steps, got.save_steps) == (15, 30)


def test_without_further_keys_there_is_a_checkpoint_and_a_validation_per_epoch(write_config: Any):
    got = arguments(write_config, val_set_size=0.1)
    assert (got.save_strategy, got.eval_strategy) == ("epoch", "epoch")
    assert arguments(write_config).eval_strategy == "no"


def test_best_needs_the_lower_loss(write_config: Any):
    got = arguments(write_config, val_set_size=0.1, save_strategy="best")
    assert (got.metric_for_best_model, got.greater_is_better) == ("eval_loss", False)


@pytest.mark.parametrize(("keys", "steps"), [({"warmup_ratio": 0.1}, 6), ({"warmup_steps": 3}, 3), ({}, 2)])
def test_warmup(write_config: Any, keys: dict[str, Any], steps: int):
    config, _ = load_config(str(write_config(**keys)))
    assert config.schedule.num_warmup_steps(60) == steps


def test_0_per_epoch_is_never(write_config: Any):
    got = arguments(write_config, val_set_size=0.1, evals_per_epoch=0, saves_per_epoch=0)
    assert (got.save_strategy, got.eval_strategy, got.eval_on_start) == ("no", "no", False)
