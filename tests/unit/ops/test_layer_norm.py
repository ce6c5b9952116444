from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.errors_of_kernels import IN_INTERPRETER, compare, outputs_and_gradients
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.layer_norm import layer_norm

EPS = 1e-5


def make(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def kernel(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    from siredon.ops.layer_norm_kernels import launch_backward, launch_forward

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Any:
            y, *moments = launch_forward(x, weight, bias, eps)
            ctx.save_for_backward(x, weight, *moments)
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, weight, *moments = ctx.saved_tensors
            _, *learns = ctx.needs_input_grad
            dx, dweight, dbias = launch_backward(grad, x, weight, tuple(moments), any(learns))
            return dx, dweight.to(x.dtype) if learns[0] else None, dbias.to(x.dtype) if learns[1] else None

    return Launched.apply(x, weight, bias)


def call(op: Any, x: Tensor, *parts: Tensor, has_weight: bool = True, has_bias: bool = True) -> Tensor:
    weight = parts[0] if has_weight else None
    bias = parts[-1] if has_bias else None
    if op is functional.layer_norm:
        return op(x, x.shape[-1:], weight, bias, EPS)
    return op(x, weight, bias, EPS)


@pytest.mark.parametrize(
    ("op", "factor"), [(layer_norm, 1.5), (kernel, IN_INTERPRETER)], ids=["plain", "kernel"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 48), (1, 70), (200, 16), (2, 300)], ids=str)
def test_is_no_further_from_the_formula_than_plain_operations(op: Any, factor: float, dtype: Any, shape: Any):
    dim = shape[-1]
    given = [
        (make(*shape) + 2).to(dtype),
        1 + make(dim, dtype=dtype, seed=1) / 5,
        make(dim, dtype=dtype, seed=2),
    ]
    compare(partial(call, op), partial(call, functional.layer_norm), given, factor=factor)


@pytest.mark.parametrize(
    ("op", "factor"), [(layer_norm, 1.5), (kernel, IN_INTERPRETER)], ids=["plain", "kernel"]
)
@pytest.mark.parametrize("has", [(True, False), (False, True), (False, False)])
def test_weight_and_bias_may_be_missing(op: Any, factor: float, has: tuple[bool, bool]):
    given = [make(4, 48), *(make(48, seed=1) for one in has if one)]
    which = {"has_weight": has[0], "has_bias": has[1]}
    compare(partial(call, op, **which), partial(call, functional.layer_norm, **which), given, factor=factor)


@pytest.mark.parametrize(
    ("op", "factor"), [(layer_norm, 1.5), (kernel, IN_INTERPRETER)], ids=["plain", "kernel"]
)
def test_rows_may_lie_anywhere(op: Any, factor: float):
    x = make(2, 3, 4 * 24 + 8)[..., 8:].unflatten(-1, (4, 24))
    above = make(4, 3, 2, 24, seed=3).permute(2, 1, 0, 3)
    weight, bias = make(24, seed=1), make(24, seed=2)
    ours = partial(call, op)
    found = outputs_and_gradients(ours, [x, weight, bias], [above], [True] * 3)
    dense = outputs_and_gradients(ours, [x.contiguous(), weight, bias], [above.contiguous()], [True] * 3)
    assert all(torch.equal(a, b) for a, b in zip(found, dense, strict=True))
    frozen = outputs_and_gradients(ours, [x, weight, bias], [above], [True, False, False])
    assert torch.equal(frozen[1], dense[1])


@pytest.mark.parametrize("op", [layer_norm, kernel], ids=["plain", "kernel"])
def test_no_rows(op: Any):
    given = [make(0, 16), make(16), make(16)]
    y, dx, dweight, dbias = outputs_and_gradients(partial(call, op), given, [make(0, 16)], [True] * 3)
    assert y.shape == dx.shape == (0, 16)
    assert not dweight.any()
    assert not dbias.any()


def block(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return layer_norm(x.sin(), weight, bias, EPS).square()


def gradients_of(function: Any) -> list[Tensor]:
    given = [
        make(5, 16).requires_grad_(),
        make(16, seed=1).requires_grad_(),
        make(16, seed=2).requires_grad_(),
    ]
    y = function(*given)
    y.sum().backward()
    return [y.detach(), *(x.grad for x in given)]


def choose(ctx: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    chosen = op is torch.ops.siredon.layer_norm.default
    return CheckpointPolicy.MUST_SAVE if chosen else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize(
    "function",
    [
        torch.compile(block, backend="eager", fullgraph=True),
        torch.compile(block, backend="aot_eager", fullgraph=True),
        partial(checkpoint, block, use_reentrant=True),
        partial(checkpoint, block, use_reentrant=False),
        partial(
            checkpoint,
            block,
            use_reentrant=False,
            context_fn=partial(create_selective_checkpoint_contexts, choose),
        ),
    ],
    ids=["eager", "aot_eager", "reentrant", "checkpoint", "selective"],
)
def test_compiled_and_recomputed_it_is_the_same(function: Any):
    assert all(torch.equal(a, b) for a, b in zip(gradients_of(function), gradients_of(block), strict=True))


def test_keeps_the_contract_of_ops():
    x, weight, bias = make(4, 3, 16).requires_grad_(), make(16).requires_grad_(), make(16).requires_grad_()
    torch.library.opcheck(torch.ops.siredon.layer_norm.default, (x, weight, bias, EPS))
    torch.library.opcheck(torch.ops.siredon.layer_norm.default, (x, None, None, EPS))
    given = (x.detach(), x.detach(), weight.detach(), make(12), make(12).abs())
    for learns in (True, False):
        torch.library.opcheck(torch.ops.siredon.layer_norm_backward.default, (*given, learns))


def test_many_rows_go_through_few_programs(monkeypatch: pytest.MonkeyPatch):
    import siredon.ops.layer_norm_kernels as kernels

    monkeypatch.setattr(kernels, "count_programs", lambda *_: 3)
    given = [make(1111, 64), make(64, seed=1), make(64, seed=2)]
    compare(partial(call, kernel), partial(call, functional.layer_norm), given, factor=IN_INTERPRETER)
