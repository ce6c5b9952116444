"""The branches of the rules SD0620 to SD0628 that their examples do not reach, and how `optim_args` is read."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from tests.unit.config.test_checks_b import FSDP2, LORA, ZERO2, Case, idle, problems_of
from tests.unit.config.texts import accept, check

from siredon.config.optimizer_words import read_arguments

IN_BACKWARD = "optimizer_in_backward: true\n"
AVERAGED = "optimizer: schedule_free_adamw\nlr_scheduler: constant\n"

CASES = [
    Case("SD0620", "optim_args", "optim_args: foreach\n", "optim_args: {amsgrad: true}\n"),
    Case("SD0620", "optim_args", "optim_args: {eps: 1e-6}\n", "adam_epsilon: 1e-6\n"),
    Case("SD0620", "optim_args", "optimizer: dion\noptim_args: a=1\n", "optimizer: dion\ndion_lr: 0.01\n"),
    Case(
        "SD0622",
        "gradient_accumulation_steps",
        IN_BACKWARD + "gradient_accumulation_steps: 2\n",
        IN_BACKWARD + "gradient_accumulation_steps: 1\n",
    ),
    Case("SD0622", "batch_size", IN_BACKWARD + "batch_size: 4\n", IN_BACKWARD + "batch_size: 1\n"),
    Case("SD0622", "fp16", IN_BACKWARD + "bf16: false\nfp16: true\n", IN_BACKWARD + "bf16: false\n"),
    Case("SD0622", "grokfast", IN_BACKWARD + "grokfast: true\n", "grokfast: true\n"),
    Case("SD0622", "optimizer", IN_BACKWARD + AVERAGED, AVERAGED),
    idle("SD0623", "optimizer", "optimizer: schedule_free_sgd\n", AVERAGED),
    idle("SD0624", "optimizer", LORA + "optimizer: adamw_bf16_sr\n", "optimizer: adamw_bf16_sr\n"),
    Case("SD0625", "grokfast", "grokfast: true\n" + ZERO2, "grokfast: true\n"),
    Case("SD0625", "grokfast", "grokfast: true\n" + AVERAGED, AVERAGED),
    Case("SD0626", "optimizer_in_backward", IN_BACKWARD + FSDP2, IN_BACKWARD),
    Case(
        "SD0627",
        "lr_groups.0.name",
        "lr_groups: [{name: main, modules: a, lr: 1e-5}]\n",
        "lr_groups: [{name: a, modules: a, lr: 1e-5}]\n",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_finds_the_text_that_breaks_it_and_passes_the_other(case: Case):
    (problem,) = problems_of(case.bad)
    assert (problem.code, problem.key, problem.severity) == (case.code, case.key, case.severity)
    assert problems_of(case.good) == []


def test_a_misspelt_setting_gets_the_nearest_name_and_all_names():
    (problem,) = problems_of("optimizer: muon\noptim_args: momentun=0.9\n")
    assert "Did you mean `momentum`?" in problem.fix
    assert "`adjust_lr_fn`" in problem.fix


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = check("optimizer: stable_adamw\n").diagnostics
    assert problem.code == "SD0621"
    assert "torch-optimi" in problem.message
    assert "siredon[optimizers]" in problem.fix


def test_an_optimizer_that_is_not_built_says_why():
    (problem,) = problems_of("optimizer: adamw_anyprecision\n")
    assert (problem.code, problem.key) == ("SD0628", "optimizer")
    assert "torchdistx" in problem.message


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, {}),
        ("a=1, b = 1e-3 ,c=True,d=none,e=std,", {"a": 1, "b": 1e-3, "c": True, "d": None, "e": "std"}),
        (
            {"a": "1e-3", "b": [0.9, "0.99"], "c": False, "d": "-2"},
            {"a": 1e-3, "b": (0.9, 0.99), "c": False, "d": -2},
        ),
    ],
)
def test_arguments_are_read_as_values(written: Any, read: dict[str, Any]):
    assert read_arguments(written) == read
    assert {name: type(value) for name, value in read_arguments(written).items()} == {
        name: type(value) for name, value in read.items()
    }


@pytest.mark.parametrize("text", ["a", "a=", "=a", "a=1,a=2"])
def test_text_that_is_no_list_of_values_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is not `name=value`|is set twice"):
        read_arguments(text)


def test_the_global_norm_is_clipped_unless_weights_move_in_the_backward_pass():
    assert accept("optimizer: sgd\n").optimizer.clip_norm == 1.0
    assert accept("optimizer: lomo\n").optimizer.clip_norm == 0.0
    assert accept("max_grad_norm: 0.5\n").optimizer.clip_norm == 0.5


def test_the_integration_of_axolotl_switches_grokfast_on():
    config = accept("plugins: [axolotl.integrations.grokfast.GrokfastPlugin]\ngrokfast_lamb: 1.0\n")
    assert config.grokfast.grokfast
