from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.errors_of_kernels import IN_INTERPRETER, compare
from tests.formulas import plain_rope
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.rope import rope


def make(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def angles(batch: int, length: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    positions = torch.arange(length) + torch.arange(batch)[:, None] * 3
    angle = positions[..., None] * 10000.0 ** -(torch.arange(size // 2) / (size // 2))
    both = torch.cat((angle, angle), dim=-1)
    return both.cos().to(dtype), both.sin().to(dtype)


def kernel(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    from siredon.ops.rope_kernels import launch_turn

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor) -> Any:
            return launch_turn(q, k, cos, sin, False)

        @staticmethod
        def backward(ctx: Any, dq: Tensor, dk: Tensor) -> Any:
            return launch_turn(dq, dk, cos, sin, True)

    return Launched.apply(q, k)


OPS = pytest.mark.parametrize(
    ("op", "factor"), [(rope, 1.5), (kernel, IN_INTERPRETER)], ids=["plain", "kernel"]
)
FROZEN = [True, True, False, False]


@OPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("q_heads", "k_heads", "dim", "turned"), [(4, 2, 16, 16), (3, 3, 24, 12), (5, 1, 20, 20), (2, 1, 40, 16)]
)
def test_is_no_further_from_the_formula_than_plain_operations(
    op: Any, factor: float, dtype: Any, q_heads: int, k_heads: int, dim: int, turned: int
):
    given = [
        make(2, 7, q_heads, dim, dtype=dtype).transpose(1, 2),
        make(2, k_heads, 7, dim, dtype=dtype, seed=1),
    ]
    q, k, *_ = compare(op, plain_rope, [*given, *angles(2, 7, turned, dtype)], learned=FROZEN, factor=factor)
    assert q.transpose(1, 2).is_contiguous()
    assert k.transpose(1, 2).is_contiguous()
    assert torch.equal(q[..., turned:], given[0][..., turned:])


@pytest.mark.parametrize("op", [rope, kernel], ids=["plain", "kernel"])
def test_angles_may_be_shared_and_strided(op: Any):
    whole = make(2, 7, 8 * 16 + 4)
    q = whole[..., 4 : 4 + 6 * 16].unflatten(-1, (6, 16)).transpose(1, 2)
    k = whole[..., 4 + 6 * 16 :].unflatten(-1, (2, 16)).transpose(1, 2)
    cos, sin = angles(1, 7, 16)
    expected = plain_rope(q, k, cos, sin)
    wide = [torch.cat((x, x), dim=-1)[..., :16] for x in (cos, sin)]
    for given in ((cos, sin), (cos.expand(2, 7, 16), sin.expand(2, 7, 16)), wide):
        for found, true in zip(op(q, k, *given), expected, strict=True):
            torch.testing.assert_close(found, true)


@pytest.mark.parametrize("op", [rope, kernel], ids=["plain", "kernel"])
@pytest.mark.parametrize(("batch", "length"), [(0, 3), (2, 0)])
def test_no_tokens(op: Any, batch: int, length: int):
    q, k = op(make(batch, 4, length, 16), make(batch, 2, length, 16), *angles(batch or 1, length, 16))
    assert q.shape == (batch, 4, length, 16)
    assert k.shape == (batch, 2, length, 16)


def test_the_formula_is_that_of_the_models():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    given = [make(2, 4, 7, 16), make(2, 2, 7, 16, seed=1), *angles(2, 7, 16)]
    for ours, theirs in zip(rope(*given), apply_rotary_pos_emb(*given), strict=True):
        torch.testing.assert_close(ours, theirs)


def block(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    q, k = rope(q.sin(), k.cos(), cos, sin)
    return (q * k).square()


def gradients_of(function: Any) -> list[Tensor]:
    q, k = make(2, 4, 5, 16).requires_grad_(), make(2, 4, 5, 16, seed=1).requires_grad_()
    y = function(q, k, *angles(1, 5, 16))
    y.sum().backward()
    return [y.detach(), q.grad, k.grad]


def choose(ctx: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    chosen = op is torch.ops.siredon.rope.default
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
    q, k = make(2, 5, 4, 16).transpose(1, 2).requires_grad_(), make(2, 2, 5, 16, seed=1).requires_grad_()
    torch.library.opcheck(torch.ops.siredon.rope.default, (q, k, *angles(1, 5, 12), False))


@pytest.mark.parametrize(
    ("size", "length", "keys", "message"),
    [(18, 5, 16, "cannot turn"), (16, 4, 16, "do not fit"), (16, 5, 8, "keys")],
)
def test_sizes_that_do_not_fit_are_refused(size: int, length: int, keys: int, message: str):
    with pytest.raises(ValueError, match=message):
        rope(make(2, 4, 5, 16), make(2, 2, 5, keys), *angles(1, length, size))
