from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.errors_of_kernels import IN_INTERPRETER, compare, outputs_and_gradients
from tests.formulas import plain_glu
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.glu import ACTIVATIONS, glu, glu_backward

# What NumPy, in Triton's interpreter, says of a sigmoid far below zero
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


def make(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def kernel_backward(
    gate: Tensor,
    up: Tensor,
    grad: Tensor,
    activation: str,
    *,
    recompute: bool = False,
    inplace: bool = False,
) -> Any:
    from siredon.ops.glu_kernels import launch_backward

    out = (gate, up) if inplace else (torch.empty(gate.shape).to(gate), torch.empty(up.shape).to(up))
    product = launch_backward((gate, up, grad), out, activation, recompute)
    return (*out, product if recompute else None)


def kernel(gate: Tensor, up: Tensor, activation: str) -> Any:
    from siredon.ops.glu_kernels import launch_forward

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, gate: Tensor, up: Tensor) -> Any:
            ctx.save_for_backward(gate, up)
            return launch_forward(gate, up, activation)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return kernel_backward(*ctx.saved_tensors, grad, activation)[:2]

    return Launched.apply(gate, up)


BOTH = pytest.mark.parametrize(
    ("op", "backward"), [(glu, glu_backward), (kernel, kernel_backward)], ids=["plain", "kernel"]
)


@pytest.mark.parametrize(("op", "factor"), [(glu, 1.5), (kernel, IN_INTERPRETER)], ids=["plain", "kernel"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 70), (1, 2049)], ids=str)
def test_is_no_further_from_the_formula_than_plain_operations(
    op: Any, factor: float, activation: str, dtype: Any, shape: Any
):
    given = [make(*shape, dtype=dtype), make(*shape, dtype=dtype, seed=1)]
    compare(
        partial(op, activation=activation), partial(plain_glu, activation=activation), given, factor=factor
    )


def halves(name: str) -> tuple[Tensor, Tensor]:
    if name == "halves":
        return make(2, 3, 48).chunk(2, dim=-1)
    if name == "transposed":
        return make(3, 2, 24).transpose(0, 1), make(2, 3, 24, seed=1)
    return make(2, 3, 48)[..., ::2], make(2, 3, 48, seed=1)[..., ::2]


@BOTH
@pytest.mark.parametrize("name", ["halves", "transposed", "columns"])
def test_rows_may_lie_anywhere(op: Any, backward: Any, name: str):
    gate, up = halves(name)
    above = make(24, 3, 2, seed=2).permute(2, 1, 0)
    ours = partial(op, activation="silu")
    found = outputs_and_gradients(ours, [gate, up], [above], [True, True])
    dense = outputs_and_gradients(
        ours, [gate.contiguous(), up.contiguous()], [above.contiguous()], [True, True]
    )
    torch.testing.assert_close(found, dense)
    dgate, dup, product = backward(gate, up, above, "silu", recompute=True, inplace=True)
    assert dgate is gate
    assert dup is up
    torch.testing.assert_close(gate, dense[1])
    torch.testing.assert_close(up, dense[2])
    torch.testing.assert_close(product, dense[0])


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_product_comes_again_bit_for_bit(op: Any, backward: Any, activation: str):
    gate, up = make(5, 40, dtype=torch.bfloat16), make(5, 40, dtype=torch.bfloat16, seed=1)
    kept = gate.clone(), up.clone()
    *_, product = backward(gate, up, make(5, 40, dtype=torch.bfloat16), activation, recompute=True)
    assert torch.equal(product, op(gate, up, activation))
    assert backward(gate, up, gate, activation)[2] is None
    assert torch.equal(gate, kept[0])
    assert torch.equal(up, kept[1])


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_from_zero_numbers_stay_numbers(op: Any, backward: Any, activation: str):
    gate = torch.tensor([-200.0, -20.0, 0.0, 20.0, 200.0])
    up = torch.ones(5)
    assert torch.allclose(op(gate, up, activation), gate.clamp(min=0), atol=1e-6)
    assert torch.allclose(backward(gate, up, up, activation)[0], torch.tensor([0.0, 0, 0.5, 1, 1]), atol=1e-6)


@BOTH
@pytest.mark.parametrize("inplace", [True, False])
def test_no_rows(op: Any, backward: Any, inplace: bool):
    gate, up = make(0, 8), make(0, 8)
    assert op(gate, up, "silu").shape == (0, 8)
    assert all(x.shape == (0, 8) for x in backward(gate, up, gate, "silu", recompute=True, inplace=inplace))


def block(gate: Tensor, up: Tensor) -> Tensor:
    return glu(gate.sin(), up.cos(), "silu").square()


def gradients_of(function: Any) -> list[Tensor]:
    gate, up = make(5, 16).requires_grad_(), make(5, 16, seed=1).requires_grad_()
    y = function(gate, up)
    y.sum().backward()
    return [y.detach(), gate.grad, up.grad]


def choose(ctx: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    chosen = op is torch.ops.siredon.glu.default
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
    gate, up = make(4, 16).requires_grad_(), make(4, 16, seed=1).requires_grad_()
    torch.library.opcheck(torch.ops.siredon.glu.default, (gate, up, "gelu"))
    given = (gate.detach(), up.detach(), make(4, 16, seed=2))
    for recompute in (True, False):
        torch.library.opcheck(torch.ops.siredon.glu_backward.default, (*given, "silu", recompute))
        torch.library.opcheck(torch.ops.siredon.glu_backward_.default, (*given, "silu", recompute))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no activation 'relu'"):
        glu(make(2, 8), make(2, 8), "relu")
    with pytest.raises(ValueError, match="does not fit"):
        glu(make(2, 8), make(1, 8), "silu")
