"""Gate and up whose adapters are added as they are read: as if each had been added before."""

from __future__ import annotations

import pytest
import torch

from siredon.ops.glu import ACTIVATIONS, glu, glu_backward

pytest.importorskip("triton")

from siredon.ops.low_rank_glu_kernels import launch_backward_, launch_forward


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Against the largest value: sums of two orders differ by roundings of their terms, not of what is left of them."""
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


# Some inputs are far enough below zero that a sigmoid is 1 over infinity: the interpreter's numpy says so.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "ranks"), [((5, 48), (4, 4)), ((70, 130), (8, 16)), ((1, 64), (1, 20))])
@pytest.mark.parametrize("adds", [False, True])
def test_a_tile_is_that_of_the_sum(
    activation: str, shape: tuple[int, int], ranks: tuple[int, int], adds: bool
):
    generator = torch.Generator().manual_seed(0)
    num, dim = shape
    gate, up, grad = (torch.randn(shape, generator=generator) for _ in range(3))
    low = torch.randn(num, sum(ranks), generator=generator)
    bs = tuple(torch.randn(dim, rank, generator=generator) for rank in ranks)
    scales = (2.0, 0.5)
    parts = low.split(ranks, dim=1)
    whole = [
        wide + scale * part @ b.T for wide, scale, part, b in zip((gate, up), scales, parts, bs, strict=True)
    ]
    expected = glu(*whole, activation)
    assert_close(launch_forward((gate, up), low, bs, scales, activation), expected)
    back, down_a = torch.randn(num, 4, generator=generator), torch.randn(4, dim, generator=generator)
    to_gate, to_up, _ = glu_backward(*whole, grad + back @ down_a if adds else grad, activation)
    above = (grad, *((back, down_a) if adds else (None, None)))
    launch_backward_((gate, up), low, bs, scales, above, activation)
    for found, wanted in ((grad, expected), (gate, to_gate), (up, to_up)):
        assert_close(found, wanted)


def test_nothing_is_computed_of_no_rows():
    empty = torch.empty(0, 16)
    bs = (torch.ones(16, 4), torch.ones(16, 4))
    assert launch_forward((empty, empty), torch.empty(0, 8), bs, (1.0, 1.0), "silu").shape == (0, 16)
