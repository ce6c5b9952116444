"""How far an op may be from the formula in fp64: no further than the plain operation in the same format, and an ulp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

#: Times the plain operation's error that a kernel may have in Triton's interpreter, which cuts numbers to bf16 where a
#: GPU rounds them, and adds up one by one.
IN_INTERPRETER = 4.0


def outputs_and_gradients(
    function: Function, given: Sequence[Tensor], upstream: Sequence[Tensor], learned: Sequence[bool]
) -> list[Tensor]:
    """What a function returns, and then the gradients of those of its inputs that have one."""
    leaves = [x.detach().requires_grad_(has) for x, has in zip(given, learned, strict=True)]
    found = function(*leaves)
    outputs = list(found) if isinstance(found, tuple) else [found]
    above = [g.to(y.dtype) for g, y in zip(upstream, outputs, strict=True)]
    wanted = [x for x in leaves if x.requires_grad]
    gradients = torch.autograd.grad(outputs, wanted, above) if wanted else ()
    return [y.detach() for y in outputs] + list(gradients)


def assert_no_worse(
    found: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor], factor: float = 1.5
) -> None:
    """Each found tensor is as near to the exact one as the plain one is: the worst element, and all together."""
    assert len(found) == len(plain) == len(exact)
    for number, (ours, theirs, true) in enumerate(zip(found, plain, exact, strict=True)):
        assert ours.dtype == theirs.dtype, number
        assert ours.shape == true.shape, number
        if not true.numel():
            continue
        unit = torch.finfo(ours.dtype).eps / 2
        mistake, allowed = (ours.double() - true).abs(), (theirs.double() - true).abs()
        worst, limit = float(mistake.max()), float(allowed.max())
        assert worst <= factor * limit + unit * float(true.abs().max()), (number, worst, limit)
        spread, limit = float(mistake.pow(2).mean().sqrt()), float(allowed.pow(2).mean().sqrt())
        size = float(true.pow(2).mean().sqrt())
        assert spread <= factor * limit + unit * size / 2, (number, spread, limit)


def compare(
    ours: Function,
    plain: Function,
    given: Sequence[Tensor],
    *,
    learned: Sequence[bool] | None = None,
    factor: float = 1.5,
) -> list[Tensor]:
    """Asserts it of an op and a formula, forward and backward; returns what the op gave.

    The formula is also the exact one, on inputs in fp64.
    """
    learned = learned or [True] * len(given)
    generator = torch.Generator(given[0].device).manual_seed(3)
    shapes = plain(*given)
    shapes = list(shapes) if isinstance(shapes, tuple) else [shapes]
    upstream = [
        torch.randn(y.shape, generator=generator, device=y.device, dtype=torch.float32).to(y.dtype)
        for y in shapes
    ]
    found = outputs_and_gradients(ours, given, upstream, learned)
    near = outputs_and_gradients(plain, given, upstream, learned)
    wide = outputs_and_gradients(plain, [x.double() for x in given], [g.double() for g in upstream], learned)
    assert_no_worse(found, near, wide, factor)
    return found
