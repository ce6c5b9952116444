"""Optimizers of whole matrices, and random rounding, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.train.test_optimizers import Problem, build, plan_of, take_steps

from siredon.errors import ModelError
from siredon.train.low_rank import LowRankOptimizer, Space, SpaceOptions, quantize, restore
from siredon.train.optimizers.adamw_bf16_sr import round_stochastically
from siredon.train.optimizers.muon import orthogonalize

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (7, 7)])
def test_newton_schulz_applies_its_polynomial_to_the_singular_values(shape: tuple[int, int]):
    matrix = draw(*shape)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    exact = left @ torch.diag(values) @ right
    found = orthogonalize(matrix, COEFFICIENTS, 5, dtype=torch.float64)
    assert torch.allclose(found, exact, atol=1e-10)
    # In bfloat16, as it is used, it is near enough to orthogonal.
    coarse = torch.linalg.svdvals(orthogonalize(matrix, COEFFICIENTS, 5).double())
    assert coarse.min() > 0.6
    assert coarse.max() < 1.3


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw"])
def test_muon_equals_that_of_pytorch_on_matrices_and_adamw_on_the_rest(rule: str):
    model, other = Problem(), Problem()
    optimizer = build(model, plan_of("muon", optim_args={"adjust_lr_fn": rule}))
    rates = {"lr": 1e-2, "weight_decay": 0.01}
    hidden = [other.first.weight, other.second.weight]
    muon = torch.optim.Muon(hidden, momentum=0.95, adjust_lr_fn=rule, **rates)
    decaying = [other.embed.weight, other.norm.weight, other.head.weight]
    biases = [other.first.bias, other.norm.bias, other.second.bias]
    adam = torch.optim.AdamW([{"params": decaying}, {"params": biases, "weight_decay": 0.0}], **rates)
    for step in range(5):
        for module, optimizers in ((model, [optimizer]), (other, [muon, adam])):
            module(step).backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
    for (name, value), true in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, true), name


def test_muon_refuses_a_rule_that_is_none():
    with pytest.raises(ModelError, match="adjust_lr_fn"):
        build(Problem(), plan_of("muon", optim_args="adjust_lr_fn=moonshot"))


def test_dion_steps_by_few_directions_and_keeps_what_it_left_out():
    model = Problem()
    optimizer = build(model, plan_of("dion", weight_decay=0.0))
    matrix = model.second.weight
    momentum = torch.zeros_like(matrix)
    for step in range(3):
        before = matrix.detach().clone()
        model(step).backward()
        total = momentum + matrix.grad
        optimizer.step()
        optimizer.zero_grad()
        momentum = optimizer.state[matrix]["momentum"].clone()
        change = (before - matrix.detach()) / (0.03 * (96 / 64) ** 0.5)
        # A quarter of 64 directions; each column of both bases has norm 1.
        assert torch.linalg.matrix_rank(change, atol=1e-3) == 16
        assert change.norm() ** 2 == pytest.approx(16, rel=1e-3)
        # M = B - (1 - mu) P P^T B: what is taken out is the part of B within the basis P.
        taken = (total - momentum) / (1 - 0.95)
        basis = torch.linalg.svd(change, full_matrices=False)[0][:, :16]
        assert torch.allclose(taken, basis @ (basis.T @ total), atol=1e-5)


def test_dion_has_its_own_rate_and_the_logged_one_is_that_of_the_rest():
    from siredon.config.sections.optimizer import DionSection

    plan = plan_of("dion", learning_rate=1e-3)
    plan = type(plan)(plan.section, DionSection(dion_lr=0.02), plan.qgalore, plan.grokfast, plan.adapter, 0)
    groups = build(Problem(), plan).param_groups
    assert [(group["lr"], group["is_matrix"]) for group in groups] == [
        (1e-3, False),
        (0.02, True),
        (1e-3, False),
    ]


@pytest.mark.parametrize("sides", ["std", "reverse_std", "left", "right", "full"])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_galore_moves_a_weight_by_the_projected_gradient(sides: Any, shape: tuple[int, int]):
    weight = torch.nn.Parameter(draw(*shape).float())
    options = SpaceOptions(rank=2, update_proj_gap=2, scale=0.5, proj_type=sides)
    optimizer = LowRankOptimizer(
        [{"params": [weight], "lr": 0.1, "weight_decay": 0.2}],
        frozenset({id(weight)}),
        options,
        torch.optim.SGD,
    )
    gradients = [draw(*shape, seed=seed).float() for seed in (1, 2, 3)]
    for step, gradient in enumerate(gradients):
        chosen = gradients[step - step % 2]
        left, _, right = torch.linalg.svd(chosen, full_matrices=False)
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        is_right = {"right": True, "left": False, "std": shape[0] >= shape[1]}.get(sides, shape[0] < shape[1])
        projected = gradient
        if sides == "full" or not is_right:
            projected = left[:, :2] @ left[:, :2].T @ projected
        if sides == "full" or is_right:
            projected = projected @ right[:2].T @ right[:2]
        expected = before * (1 - 0.1 * 0.2) - 0.1 * 0.5 * projected
        assert torch.allclose(weight, expected, atol=1e-5)


def test_a_stable_space_waits_longer_and_a_turning_one_does_not():
    options = SpaceOptions(rank=2, update_proj_gap=2, queue_size=2, gamma_proj=3, cos_threshold=0.9)
    stable, turning = (Space(torch.Size((6, 10)), options) for _ in range(2))
    for step in range(7):
        stable.project(draw(6, 10).float())
        turning.project(draw(6, 10, seed=step).float())
    assert stable.state["gap"] == 6
    assert turning.state["gap"] == 2


def test_a_quantized_projection_is_off_by_half_a_step_at_most():
    values = draw(10, 7).float()
    held = quantize(values, 4, 16)
    assert held["codes"].max() <= 15
    assert held["codes"].shape == (5, 16)
    error = torch.nn.functional.pad((restore(held) - values).flatten(), (0, 10)).view(5, 16).abs()
    assert (error <= held["scale"] / 2 + 1e-6).all()


@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
def test_apollo_scales_the_gradient_as_adam_scales_its_picture(scale_type: str):
    settings = {"rank": 4, "scale": 2.0, "scale_type": scale_type}
    model = Problem()
    optimizer = build(model, plan_of("apollo_adamw", optim_args=settings, weight_decay=0.0))
    index = next(i for i, p in enumerate(optimizer.param_groups[0]["params"], 1) if p is model.second.weight)
    generator = torch.Generator().manual_seed((3 * 1_000_003 + index) * 1_000_003)
    projection = (torch.randn(64, 4, generator=generator) / 2).double()
    mean = square = torch.zeros(96, 4, dtype=torch.float64)
    last = None
    for step in range(1, 4):
        before = model.second.weight.detach().clone()
        model(step).backward()
        gradient = model.second.weight.grad.double()
        optimizer.step()
        optimizer.zero_grad()
        # [96, 64] is tall: its 96 rows are the channels.
        small = gradient @ projection
        mean, square = 0.9 * mean + 0.1 * small, 0.999 * square + 0.001 * small**2
        adam = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        if scale_type == "channel":
            update = gradient * (adam.norm(dim=1) / small.norm(dim=1))[:, None]
        else:
            update = gradient * (adam.norm() / small.norm())
        if last is not None and update.norm() > 1.01 * last:
            update = update * (1.01 * last / update.norm())
        last = update.norm()
        expected = before.double() - 1e-2 * 2.0 * update
        assert torch.allclose(model.second.weight.double(), expected, atol=1e-4 * 1e-2 * last.item())


def test_a_target_that_is_in_no_name_is_refused_with_those_that_there_are():
    with pytest.raises(ModelError, match="`atn` is in the name of no trained linear layer") as caught:
        build(Problem(), plan_of("galore_adamw", optim_target_modules=["atn"]))
    assert "first, second" in str(caught.value)


def test_all_linear_is_every_layer_but_the_head():
    optimizer = build(Problem(), plan_of("galore_adamw", optim_target_modules=["all_linear"]))
    shapes = [
        tuple(value.shape)
        for group in optimizer.param_groups
        if group["is_projected"]
        for value in group["params"]
    ]
    assert shapes == [(64, 64), (96, 64)]


def test_random_rounding_is_right_on_average_and_leaves_what_needs_none():
    generator = torch.Generator().manual_seed(0)
    value = 1 + 1 / 1024  # an eighth of the way to the next bfloat16
    rounded = round_stochastically(torch.full((200_000,), value), generator).float()
    assert set(rounded.tolist()) == {1.0, 1 + 1 / 128}
    deviation = (1 / 128) * (1 / 8 * 7 / 8) ** 0.5 / 200_000**0.5
    assert abs(rounded.double().mean().item() - value) < 4 * deviation
    exact = torch.tensor([0.0, -1.0, 3.5, -(2.0**-20)])
    assert torch.equal(round_stochastically(exact, generator).float(), exact)


def test_small_updates_in_bfloat16_are_lost_without_it():
    ends = {}
    for name in ("adamw_torch", "adamw_bf16_sr"):
        model = Problem().to(torch.bfloat16)
        optimizer = build(model, plan_of(name, learning_rate=2e-4, weight_decay=0.0))
        start = model.norm.weight.detach().float().clone()
        take_steps(model, optimizer, range(30))
        ends[name] = (model.norm.weight.detach().float() - start).abs().mean().item()
    # Weights of 1 and updates of 2e-4: rounding to the nearest loses each.
    assert ends["adamw_torch"] == 0
    assert 1e-3 < ends["adamw_bf16_sr"] < 8e-3
