from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.errors_of_kernels import IN_INTERPRETER, assert_no_worse, compare, outputs_and_gradients
from tests.formulas import plain_add_rms_norm, plain_rms_norm
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.hardware import probe_hardware
from siredon.ops.rms_norm import add_rms_norm, rms_norm
from siredon.ops.rows import count_rows, fold_rows

EPS = 1e-5
KINDS = [{"rounds_first": True}, {"rounds_first": False, "offset": 1.0}]
FORMATS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(3, 5, 48), (1, 7), (200, 16), (2, 300)]


def make(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def kernel(x: Tensor, weight: Tensor, *, residual: Tensor | None = None, **kind: Any) -> Any:
    """The op as a GPU has it, through the launchers."""
    from siredon.ops.rms_norm_kernels import launch_backward, launch_forward

    offset, rounds_first = kind.get("offset", 0.0), kind["rounds_first"]

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, residual: Tensor | None) -> Any:
            y, total, rstd = launch_forward(x, residual, weight, EPS, offset, rounds_first)
            ctx.save_for_backward(total, weight, rstd)
            return y if residual is None else (y, total)

        @staticmethod
        def backward(ctx: Any, grad: Tensor, grad_total: Tensor | None = None) -> Any:
            given = (grad, grad_total, *ctx.saved_tensors)
            dx, dweight = launch_backward(given, offset, rounds_first, ctx.needs_input_grad[1])
            return dx, dweight if ctx.needs_input_grad[1] else None, dx if ctx.needs_input_grad[2] else None

    return Launched.apply(x, weight, residual)


def added(x: Tensor, residual: Tensor, weight: Tensor, **kind: Any) -> Any:
    return kernel(x, weight, residual=residual, **kind)


OPS = [(partial(rms_norm, eps=EPS), 1.5), (kernel, IN_INTERPRETER)]


@pytest.mark.parametrize(("op", "factor"), OPS, ids=["plain", "kernel"])
@pytest.mark.parametrize("kind", KINDS, ids=["llama", "gemma"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_no_further_from_the_formula_than_plain_operations(
    op: Any, factor: float, kind: Any, dtype: Any, shape: Any
):
    given = [make(*shape, dtype=dtype), 1 + 0.2 * make(shape[-1], dtype=dtype, seed=1)]
    compare(partial(op, **kind), partial(plain_rms_norm, eps=EPS, **kind), given, factor=factor)


@pytest.mark.parametrize(
    ("op", "factor"),
    [(partial(add_rms_norm, eps=EPS), 1.5), (added, IN_INTERPRETER)],
    ids=["plain", "kernel"],
)
@pytest.mark.parametrize("kind", KINDS, ids=["llama", "gemma"])
@pytest.mark.parametrize("dtype", FORMATS[:2], ids=str)
def test_the_sum_and_its_norm(op: Any, factor: float, kind: Any, dtype: Any):
    given = [
        make(3, 5, 48, dtype=dtype),
        make(3, 5, 48, dtype=dtype, seed=2),
        1 + make(48, dtype=dtype, seed=1) / 5,
    ]
    _, total, dx, dresidual, _ = compare(
        partial(op, **kind), partial(plain_add_rms_norm, eps=EPS, **kind), given, factor=factor
    )
    if op is not added or dtype == torch.float32:
        assert torch.equal(total, given[0] + given[1])
    assert torch.equal(dx, dresidual)


@pytest.mark.parametrize(("op", "factor"), OPS, ids=["plain", "kernel"])
@pytest.mark.parametrize("rounds_first", [True, False])
def test_a_weight_in_fp32(op: Any, factor: float, rounds_first: bool):
    given = [make(4, 48, dtype=torch.bfloat16), 1 + make(48, seed=1) / 5]
    plain = partial(plain_rms_norm, eps=EPS, rounds_first=rounds_first)
    y = compare(partial(op, rounds_first=rounds_first), plain, given, factor=factor)[0]
    assert y.dtype == (torch.float32 if rounds_first else torch.bfloat16)


def views(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The same shape, as models hand it over."""
    *leading, dim = shape
    return {
        "halves": make(*leading, 2 * dim)[..., dim:],
        "transposed": make(leading[0], leading[2], leading[1], dim).transpose(1, 2),
        "projection": make(leading[0], leading[1], leading[2] * dim + 8)[..., 8:].unflatten(
            -1, (leading[2], dim)
        ),
        "scattered": make(*leading[::-1], dim).permute(2, 1, 0, 3),
        "columns": make(*leading, dim * 2)[..., ::2],
        "one row": make(1, dim).expand(*leading, dim),
    }


@pytest.mark.parametrize("name", sorted(views((2, 3, 4, 24))))
@pytest.mark.parametrize("op", [partial(rms_norm, eps=EPS), kernel], ids=["plain", "kernel"])
def test_rows_may_lie_anywhere(op: Any, name: str):
    x, weight = views((2, 3, 4, 24))[name], 1 + make(24, seed=1) / 5
    above = views((2, 3, 4, 24))["scattered"]
    ours = partial(op, rounds_first=True)
    found = outputs_and_gradients(ours, [x, weight], [above], [True, True])
    dense = outputs_and_gradients(ours, [x.contiguous(), weight], [above.contiguous()], [True, True])
    assert all(torch.equal(a, b) for a, b in zip(found, dense, strict=True))
    assert found[0].is_contiguous()


@pytest.mark.parametrize("name", sorted(views((2, 3, 4, 24))))
def test_rows_are_folded_to_two_distances(name: str):
    x = views((2, 3, 4, 24))[name]
    rows = fold_rows(x)
    row = torch.arange(count_rows(x))
    begin = (row // rows.inner) * rows.outer + (row % rows.inner) * rows.step
    flat = rows.tensor.as_strided((int(begin.max()) + 24,), (1,))
    assert torch.equal(flat[begin[:, None] + torch.arange(24)], x.reshape(-1, 24))
    assert (rows.tensor is x) == (name in {"halves", "projection", "one row"})


@pytest.mark.parametrize("shape", [(0, 16), (2, 0, 16)])
@pytest.mark.parametrize("op", [partial(rms_norm, eps=EPS), kernel], ids=["plain", "kernel"])
def test_no_rows(op: Any, shape: tuple[int, ...]):
    y, dx, dweight = outputs_and_gradients(
        partial(op, rounds_first=True), [make(*shape), make(16)], [make(*shape)], [True, True]
    )
    assert y.shape == dx.shape == shape
    assert torch.equal(dweight, torch.zeros(16))


def test_many_rows_go_through_few_programs(monkeypatch: pytest.MonkeyPatch):
    import siredon.ops.rms_norm_kernels as kernels

    monkeypatch.setattr(kernels, "count_programs", lambda *_: 3)
    compare(
        partial(kernel, rounds_first=True),
        partial(plain_rms_norm, eps=EPS, rounds_first=True),
        [make(1111, 64), 1 + make(64, seed=1) / 5],
        factor=IN_INTERPRETER,
    )


@pytest.mark.parametrize("op", [partial(rms_norm, eps=EPS), kernel], ids=["plain", "kernel"])
def test_a_frozen_weight_costs_nothing_and_changes_nothing(op: Any):
    given = [make(6, 32), make(32, seed=1)]
    ours = partial(op, rounds_first=True)
    frozen = outputs_and_gradients(ours, given, [make(6, 32, seed=2)], [True, False])
    both = outputs_and_gradients(ours, given, [make(6, 32, seed=2)], [True, True])
    assert len(frozen) == 2
    assert torch.equal(frozen[1], both[1])


def test_one_of_two_outputs_is_enough():
    x, residual, weight = (make(4, 32, seed=s).requires_grad_() for s in range(3))
    weight = make(32, seed=5).requires_grad_()
    add_rms_norm(x, residual, weight, EPS)[1].sum().backward()
    assert weight.grad is None
    assert torch.equal(x.grad, torch.ones(4, 32))
    y, _ = add_rms_norm(x, residual, weight, EPS)
    alone = rms_norm((x + residual).detach().requires_grad_(), weight, EPS)
    assert torch.equal(y, alone)
    assert_no_worse(
        torch.autograd.grad(y.square().sum(), [x, weight]),
        torch.autograd.grad(plain_rms_norm(x + residual, weight, eps=EPS).square().sum(), [x, weight]),
        torch.autograd.grad(
            plain_rms_norm(x.double() + residual.double(), weight.double(), eps=EPS).square().sum(),
            [x, weight],
        ),
    )


def test_the_formula_is_that_of_the_models():
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    x = make(3, 5, 48, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        llama, gemma = LlamaRMSNorm(48, EPS).to(dtype), GemmaRMSNorm(48, EPS).to(dtype)
        with torch.no_grad():
            llama.weight.copy_(1 + make(48) / 5)
            gemma.weight.copy_(make(48) / 5)
        theirs = llama(x), gemma(x)
        ours = rms_norm(x, llama.weight, EPS), rms_norm(x, gemma.weight, EPS, offset=1.0, rounds_first=False)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(1 + make(32, seed=1) / 5)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y, total = add_rms_norm(x.tanh(), residual, self.weight, EPS)
        return rms_norm(y, self.weight, EPS).square() + total


def gradients_of(function: Any, layer: Layer, given: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in given]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [*leaves, layer.weight])]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_break(backend: str):
    layer, given = Layer(), [make(5, 32), make(5, 32, seed=2)]
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for a, b in zip(gradients_of(compiled, layer, given), gradients_of(layer, layer, given), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_layers_have_the_same_gradients(reentrant: bool):
    layer, given = Layer(), [make(5, 32), make(5, 32, seed=2)]
    again = partial(checkpoint, layer, use_reentrant=reentrant)

    def backward(function: Any) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in given]
        layer.zero_grad()
        function(*leaves).square().sum().backward()
        return [*(x.grad for x in leaves), layer.weight.grad]

    assert all(torch.equal(a, b) for a, b in zip(backward(again), backward(layer), strict=True))


def test_selective_checkpoints_see_the_op():
    layer, given, seen = Layer(), [make(5, 32), make(5, 32, seed=2)], []

    def choose(ctx: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        seen.append(op)
        return (
            CheckpointPolicy.MUST_SAVE
            if op is torch.ops.siredon.rms_norm.default
            else CheckpointPolicy.PREFER_RECOMPUTE
        )

    contexts = partial(create_selective_checkpoint_contexts, choose)
    again = partial(checkpoint, layer, use_reentrant=False, context_fn=contexts)
    for a, b in zip(gradients_of(again, layer, given), gradients_of(layer, layer, given), strict=True):
        assert torch.equal(a, b)
    assert {torch.ops.siredon.rms_norm.default, torch.ops.siredon.add_rms_norm.default} <= set(seen)


def test_autocast_changes_nothing():
    x, weight = make(4, 32), make(32)
    with torch.autocast(probe_hardware().device, dtype=torch.bfloat16):
        y = rms_norm(x, weight, EPS)
    assert torch.equal(y, rms_norm(x, weight, EPS))


def test_keeps_the_contract_of_ops():
    x, weight = make(4, 3, 32).requires_grad_(), make(32).requires_grad_()
    torch.library.opcheck(torch.ops.siredon.rms_norm.default, (x, weight, EPS, 0.0, True))
    torch.library.opcheck(
        torch.ops.siredon.add_rms_norm.default, (x, x.detach().clone(), weight, EPS, 1.0, False)
    )
    rstd = make(12).abs()
    given = (x.detach(), None, x.detach(), weight.detach(), rstd, 0.0, True)
    for learns in (True, False):
        torch.library.opcheck(torch.ops.siredon.rms_norm_backward.default, (*given, learns))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rounds_first=False"):
        rms_norm(make(2, 8), make(8), EPS, offset=1.0)
    with pytest.raises(ValueError, match="cannot add"):
        add_rms_norm(make(2, 8), make(1, 8), make(8), EPS)
