"""Every optimizer of the shelf on one tiny problem: it learns, as it did before, and goes on bit for bit."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from siredon.config.optimizer_words import ARGUMENTS, find_package
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.optimizer import (
    DionSection,
    GrokfastSection,
    Optimizer,
    OptimizerSection,
    QGaloreSection,
)
from siredon.errors import ModelError
from siredon.train.optimize import OPTIMIZERS, OptimizerPlan, build_optimizer

GOLDEN = Path(__file__).with_name("optimizer_losses.json")
STEPS = 16
#: Learning rates at which the problem is learned; 1e-2 for the others.
RATES = {
    "sgd": 0.3,
    "lomo": 0.3,
    "schedule_free_sgd": 0.3,
    "adagrad": 0.05,
    "adalomo": 0.05,
    "lion": 3e-3,
    "lion_8bit": 3e-3,
    "lion_32bit": 3e-3,
    "paged_lion_32bit": 3e-3,
    "paged_lion_8bit": 3e-3,
    "dion": 0.03,
}
WORDS = OPTIMIZERS.names()


class Problem(torch.nn.Module):
    """Embedding, two hidden layers, head: 8,000 weights, two of the matrices large enough for an 8-bit state."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.nn.Embedding(32, 64)
        self.first = torch.nn.Linear(64, 64)
        self.norm = torch.nn.LayerNorm(64)
        self.second = torch.nn.Linear(64, 96)
        self.head = torch.nn.Linear(96, 32, bias=False)
        with torch.no_grad():
            for value in self.parameters():
                if value.ndim == 2:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
                elif value is not self.norm.weight:
                    value.zero_()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, step: int) -> torch.Tensor:
        """Each token is followed by its successor, modulo 32; a batch of each step."""
        ids = (torch.arange(24, device=self.embed.weight.device) * 7 + step) % 32
        hidden = self.norm(torch.relu(self.first(self.embed(ids))))
        logits = self.head(torch.relu(self.second(hidden)))
        return torch.nn.functional.cross_entropy(logits.float(), (ids + 1) % 32)


def plan_of(optimizer: str, grokfast: bool = False, **keys: Any) -> OptimizerPlan:
    if optimizer.startswith(("galore", "apollo", "q_galore")):
        keys = {"optim_target_modules": ["first", "second"], **keys}
    if optimizer.startswith(("galore", "apollo")):
        keys = {"optim_args": {"rank": 8, "update_proj_gap": 3}, **keys}
    keys = {"learning_rate": RATES.get(optimizer, 1e-2), "weight_decay": 0.01, **keys}
    qgalore = QGaloreSection(qgalore_rank=8, qgalore_update_proj_gap=3, qgalore_queue_size=1)
    return OptimizerPlan(
        OptimizerSection(optimizer=optimizer, **keys),
        DionSection(dion_rank_fraction=0.25),
        qgalore,
        GrokfastSection(grokfast=grokfast),
        AdapterSection(),
        seed=3,
    )


def build(model: Any, plan: OptimizerPlan) -> torch.optim.Optimizer:
    return build_optimizer(model, [name for name, _ in model.named_parameters() if "bias" not in name], plan)


def take_steps(model: Any, optimizer: Any, steps: range) -> list[float]:
    losses = []
    for step in steps:
        if averages(optimizer):
            optimizer.train()
        loss = model(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if averages(optimizer):
        optimizer.eval()
    return losses


def averages(optimizer: Any) -> bool:
    return "schedulefree" in type(optimizer).__module__


def saved(value: Any) -> Any:
    """Through a file, as a checkpoint is, read with the same caution."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@contextmanager
def without_compiler() -> Iterator[None]:
    """torchao compiles its step, which takes minutes for all; what it computes is the same."""
    torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


def dtype_of(name: str) -> torch.dtype:
    return torch.bfloat16 if name == "adamw_bf16_sr" else torch.float32


@pytest.mark.parametrize("name", WORDS)
def test_an_optimizer_learns_as_before_and_goes_on_bit_for_bit(name: str):
    plan = plan_of(name)
    with without_compiler():
        model = Problem().to(dtype_of(name))
        optimizer = build(model, plan)
        losses = take_steps(model, optimizer, range(STEPS // 2))
        # A second one from what a checkpoint would hold
        other = Problem().to(dtype_of(name))
        resumed = build(other, plan)
        # accelerate loads the state of a new optimizer into itself.
        resumed.load_state_dict(resumed.state_dict())
        other.load_state_dict(saved(model.state_dict()))
        resumed.load_state_dict(saved(optimizer.state_dict()))
        rest = range(STEPS // 2, STEPS)
        losses += take_steps(model, optimizer, rest)
        again = take_steps(other, resumed, rest)
    assert again == losses[STEPS // 2 :]
    for (key, value), copy in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, copy), key
    assert losses[-1] < 0.93 * losses[0]
    golden = json.loads(GOLDEN.read_text())[name]
    # Kernels of other machines add up in another order; 2 % is far below what another algorithm would differ by.
    assert losses == pytest.approx(golden, rel=0.02, abs=0.005)


# The shelf, and what the checks know of it


def test_every_word_is_on_the_shelf_or_planned_and_no_other_is():
    from siredon.config.deal import built_words
    from siredon.config.schema import key_homes

    info = key_homes()["optimizer"]
    assert set(WORDS) == set(built_words(info)) == set(ARGUMENTS)
    assert set(WORDS) | set(info.planned_values) == set(get_args(Optimizer))
    assert set(json.loads(GOLDEN.read_text())) == set(WORDS)


#: Arguments that the config's keys or the word itself set, or that are for other programs.
SET_ELSEWHERE = {
    *("self", "params", "lr", "weight_decay", "betas", "eps", "eps1", "eps2", "fused", "kwargs", "args"),
    *("optim_bits", "is_paged", "scale_parameter", "relative_step", "warmup_init", "warmup_steps"),
    *("gradient_release", "clip_lambda", "max_unorm", "skip_zeros", "compress_state_dict", "amsgrad"),
    *("foreach", "differentiable", "capturable", "maximize"),
}
#: Those that are made of ours: their settings, with a value that is not the default.
OURS = {
    "muon": {"momentum": 0.9, "nesterov": False, "ns_steps": 3, "adjust_lr_fn": "original"}
    | {"ns_coefficients": (2.0, -1.5, 0.5)},
    "galore_adamw": {"rank": 4, "update_proj_gap": 9, "scale": 1.0, "proj_type": "left"},
    "apollo_adamw": {"rank": 4, "update_proj_gap": 9, "scale": 2.0, "proj_type": "reverse_std"}
    | {"scale_type": "tensor", "seed": 5},
}


@pytest.mark.parametrize("name", [word for word in WORDS if not word.endswith("layerwise")])
def test_the_settings_that_the_check_lets_pass_are_those_that_the_optimizer_takes(name: str):
    if name in OURS:
        assert set(ARGUMENTS[name]) == set(OURS[name])
        build(Problem(), plan_of(name, optim_args=OURS[name]))
        return
    if not ARGUMENTS[name]:
        return
    word = "galore_adamw" if name.startswith("galore") else name
    if word != name:
        assert ARGUMENTS[name] == ARGUMENTS[word] == ARGUMENTS[f"{name}_layerwise"]
        return
    optimizer = build(Problem(), plan_of(name))
    if name == "adalomo":
        optimizer = next(iter(optimizer._inner))  # type: ignore[attr-defined]
    takes = set(inspect.signature(type(optimizer).__init__).parameters)
    assert set(ARGUMENTS[name]) <= takes
    assert takes - set(ARGUMENTS[name]) <= SET_ELSEWHERE


def test_every_optional_package_is_known():
    modules = {}
    for name in WORDS:
        text = (Path(inspect.getfile(build_optimizer)).parent / "optimizers" / f"{name}.py").read_text()
        modules[name] = next(
            (
                package
                for maker, package in (
                    ("make_bitsandbytes", "bitsandbytes"),
                    ('"adamw_8bit"', "bitsandbytes"),
                    ("build_q_galore", "bitsandbytes"),
                    ("make_torchao", "torchao"),
                    ("make_schedule_free", "schedulefree"),
                    ("make_optimi", "optimi"),
                    ("make_pytorch_optimizer", "pytorch_optimizer"),
                    ("build_came", "pytorch_optimizer"),
                )
                if maker in text
            ),
            None,
        )
    assert {name: find_package(name) for name in WORDS} == modules


def test_settings_reach_the_optimizer():
    sgd = build(Problem(), plan_of("sgd", optim_args="momentum=0.9,nesterov=True"))
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert sgd.param_groups[0]["nesterov"] is True
    came = build(Problem(), plan_of("came_pytorch", adam_beta3=0.99, adam_epsilon2=1e-12))
    assert came.param_groups[0]["betas"] == (0.9, 0.999, 0.99)
    assert (came.param_groups[0]["eps1"], came.param_groups[0]["eps2"]) == (1e-30, 1e-12)
    adam = build(Problem(), plan_of("adamw_torch", adam_beta2=0.95, adam_epsilon=1e-6))
    assert (adam.param_groups[0]["betas"], adam.param_groups[0]["eps"]) == ((0.9, 0.95), 1e-6)


def test_a_value_that_an_optimizer_refuses_is_a_problem_of_the_config():
    with pytest.raises(ModelError, match=r"optim_args: sgd cannot be built .*momentum"):
        build(Problem(), plan_of("sgd", optim_args="momentum=-1"))


def test_embeddings_keep_an_exact_state_and_later_optimizers_do_not_know_of_it():
    model = Problem()
    with torch.no_grad():
        model.embed.weight = torch.nn.Parameter(torch.randn(128, 64))
    optimizer = build(model, plan_of("adamw_8bit"))
    take_steps(model, optimizer, range(1))
    assert optimizer.state[model.embed.weight]["state1"].dtype == torch.float32
    assert optimizer.state[model.second.weight]["state1"].dtype == torch.uint8
    from bitsandbytes.optim import GlobalOptimManager

    assert not GlobalOptimManager.get_instance().index2config


# Updates in the backward pass


@pytest.mark.parametrize("name", ["adamw_torch", "muon", "adafactor"])
def test_an_update_in_the_backward_pass_equals_one_after_it(name: str):
    plain, early = Problem(), Problem()
    after = build(plain, plan_of(name))
    within = build(early, plan_of(name, optimizer_in_backward=True))
    for group in (*after.param_groups, *within.param_groups):
        group["lr"] = 0.005  # as a schedule does
    assert take_steps(plain, after, range(4)) == take_steps(early, within, range(4))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), early.parameters(), strict=True))


def test_no_gradient_is_left_after_the_backward_pass():
    model = Problem()
    build(model, plan_of("lomo"))
    model(0).backward()
    assert all(value.grad is None for value in model.parameters())


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="one process only"):
        build(Problem(), plan_of("lomo"))


# Against their formulas


def test_grokfast_adds_the_running_average_and_goes_on_bit_for_bit():
    model, other = Problem(), Problem()
    plan = plan_of("sgd", grokfast=True, weight_decay=0.0)
    optimizer = build(model, plan)
    value, slow = model.second.weight, None
    for step in range(3):
        before = value.detach().double()
        model(step).backward()
        gradient = value.grad.double()
        slow = gradient if slow is None else 0.98 * slow + 0.02 * gradient
        optimizer.step()
        optimizer.zero_grad()
        expected = before - RATES["sgd"] * (gradient + 2.0 * slow)
        assert torch.allclose(value.double(), expected, atol=1e-6)
    resumed = build(other, plan)
    resumed.load_state_dict(resumed.state_dict())
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(saved(optimizer.state_dict()))
    assert take_steps(model, optimizer, range(3, 6)) == take_steps(other, resumed, range(3, 6))
    optimizer.param_groups[0]["lr"] = 0.0
    before = model.second.weight.clone()
    take_steps(model, optimizer, range(6, 7))
    assert torch.equal(model.second.weight, before)
