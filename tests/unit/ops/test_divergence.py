"""The divergence of two predictions against the formula in fp64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from siredon.data.types import IGNORE
from siredon.ops.divergence import Projection, measure_divergences
from siredon.ops.linear_cross_entropy import PLAIN, LossOptions


def draw(num: int = 23, width: int = 24, ids: int = 53, *, biased: bool = True, seed: int = 0) -> Projection:
    torch.manual_seed(seed)
    bias = torch.randn(ids) if biased else None
    return Projection(torch.randn(num, width), torch.randn(ids, width) * 0.5, bias)


def true_logs(side: Projection, options: LossOptions) -> Tensor:
    logits = side.hidden.double() @ side.weight.double().T
    if side.bias is not None:
        logits = logits + side.bias.double()
    if options.softcap:
        logits = torch.tanh(logits / options.softcap) * options.softcap
    return torch.log_softmax(logits * options.scale, 1)


@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("options", [PLAIN, LossOptions(softcap=3.0, scale=0.7, chunk_rows=5)])
@pytest.mark.parametrize("widths", [(24, 24), (24, 16)])
@pytest.mark.parametrize("counted", [True, False])
def test_it_is_the_formula(masked: str, options: LossOptions, widths: tuple[int, int], counted: bool):
    one, other = draw(width=widths[0]), draw(width=widths[1], biased=False, seed=1)
    targets = torch.randint(0, 53, (23,))
    if masked != "none":
        targets[slice(None) if masked == "all" else slice(0, None, 3)] = IGNORE
    options = replace(options, num_targets=int((targets != IGNORE).sum()) if counted else None)
    logs, against = true_logs(one, options), true_logs(other, options)
    wanted = torch.where(targets != IGNORE, (logs.exp() * (logs - against)).sum(1), 0.0)
    found = measure_divergences(one, other, targets, options=options)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max().item())
    assert (found[targets != IGNORE] > 0).all()


def test_it_has_a_direction_and_no_gradient():
    one, other = draw(), draw(seed=1)
    targets = torch.zeros(23, dtype=torch.long)
    learned = Projection(one.hidden.requires_grad_(), one.weight, one.bias)
    found, back = (measure_divergences(*sides, targets) for sides in ((learned, other), (other, learned)))
    assert not found.requires_grad
    assert (found - back).abs().max() > 0.1
    assert not measure_divergences(one, one, targets).any()


def test_formats_that_do_not_fit_are_refused_unless_autocast_makes_them_fit():
    one = draw(biased=False)
    mixed: Any = Projection(one.hidden.bfloat16(), one.weight)
    targets = torch.zeros(23, dtype=torch.long)
    with pytest.raises(ValueError, match="bfloat16"):
        measure_divergences(one, mixed, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure_divergences(one, mixed, targets)
    assert found.abs().max() == 0
