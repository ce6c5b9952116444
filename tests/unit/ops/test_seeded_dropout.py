"""Masks that are made again from a seed: as often as asked for, the same each time, in plain PyTorch and in Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from siredon.ops.seeded_dropout import add_kept_, differentiate_kept, draw_seeds, keep, multiply_kept

CPU = torch.device("cpu")


def keep_by_triton(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    pytest.importorskip("triton")
    from siredon.ops.seeded_dropout_kernels import launch_keep

    return launch_keep(x, seed, rate)


def add_by_triton(*given: Any) -> None:
    pytest.importorskip("triton")
    from siredon.ops.seeded_dropout_kernels import launch_add_

    launch_add_(*given)


WAYS: list[tuple[Callable[..., Tensor], Callable[..., None]]] = [
    (keep, add_kept_),
    (keep_by_triton, add_by_triton),
]
both = pytest.mark.parametrize(("keeps", "adds"), WAYS, ids=["plain", "triton"])


def seeds(number: int) -> list[Tensor]:
    torch.manual_seed(number)
    return list(draw_seeds(4, CPU).unbind())


@both
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_as_many_are_kept_as_asked_for(keeps: Any, adds: Any, rate: float):
    """Of 40,000 places, by rows and by columns, within five standard deviations."""
    mask = keeps(torch.ones(200, 200), seeds(0)[0], rate)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    spread = (rate * (1 - rate)) ** 0.5
    assert abs(float(mask.mean()) - (1 - rate)) < 5 * spread / 200
    for dim in (0, 1):
        assert float((mask.mean(dim) - (1 - rate)).abs().max()) < 5 * spread / 200**0.5


@both
def test_masks_differ_by_seed_and_from_row_to_row(keeps: Any, adds: Any):
    """Half of the places of two masks agree, and of two rows, and of the eighths of a row."""
    masks = [keeps(torch.ones(64, 256), seed, 0.5) for seed in (*seeds(0), *seeds(1))]
    for index, one in enumerate(masks):
        for other in masks[index + 1 :]:
            assert abs(float((one == other).float().mean()) - 0.5) < 0.04
    first = masks[0]
    assert abs(float((first[1:] == first[:-1]).float().mean()) - 0.5) < 0.04
    eighths = first.split(32, dim=1)
    for index, one in enumerate(eighths):
        for other in eighths[index + 1 :]:
            assert abs(float((one == other).float().mean()) - 0.5) < 0.06


@both
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 33), (5, 1030), (0, 7)])
def test_the_mask_is_that_of_its_seed_for_any_format_and_stride(
    keeps: Any, adds: Any, shape: tuple[int, int]
):
    seed = seeds(0)[1]
    x = torch.randn(shape)
    mask = keeps(torch.ones(shape), seed, 0.3)
    torch.testing.assert_close(keeps(x, seed, 0.3), x * mask, rtol=0, atol=0)
    torch.testing.assert_close(keeps(x.bfloat16(), seed, 0.3), x.bfloat16() * mask.bfloat16(), rtol=0, atol=0)
    turned, wide = x.t().contiguous().t(), torch.cat([x, x], 1)[:, : shape[1]]
    for strided in (turned, wide):
        torch.testing.assert_close(keeps(strided, seed, 0.3), x * mask, rtol=0, atol=0)


@both
@pytest.mark.parametrize(("shape", "rank"), [((3, 5), 1), ((70, 33), 4), ((66, 300), 70), ((0, 7), 2)])
def test_a_product_is_added_where_the_mask_keeps_it(keeps: Any, adds: Any, shape: tuple[int, int], rank: int):
    seed = seeds(0)[2]
    total, back, a = (
        torch.randn(shape),
        torch.randn(shape[0], 2 * rank)[:, :rank],
        torch.randn(rank, shape[1]),
    )
    mask = keeps(torch.ones(shape), seed, 0.3).double()
    expected = total.double() + (back.double() @ a.double()) * mask
    adds(total, back, a, seed, 0.3)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)


def test_products_of_what_is_kept():
    seed, x, a = seeds(0)[0], torch.randn(7, 33), torch.randn(3, 33)
    mask = keep(torch.ones(7, 33), seed, 0.4)
    torch.testing.assert_close(multiply_kept(x, a, seed, 0.4), (x * mask) @ a.t())
    back = torch.randn(7, 3)
    torch.testing.assert_close(differentiate_kept(back, x, seed, 0.4), back.t() @ (x * mask))


@both
def test_all_or_nothing(keeps: Any, adds: Any):
    x = torch.randn(9, 21)
    torch.testing.assert_close(keeps(x, seeds(0)[0], 1.0), torch.zeros(9, 21))
    torch.testing.assert_close(keeps(x, seeds(0)[0], 0.0), x)


def test_seeds_follow_the_generator_of_the_device():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = draw_seeds(2, CPU), draw_seeds(2, CPU)
    torch.set_rng_state(state)
    assert torch.equal(draw_seeds(2, CPU), first)
    assert not torch.equal(first, second)


def test_what_is_not_a_number_is_dropped_like_any_other():
    x = torch.full((9, 21), float("nan"))
    mask = keep(torch.ones(9, 21), seeds(0)[0], 0.5) > 0
    assert torch.equal(keep(x, seeds(0)[0], 0.5).isnan(), mask)
