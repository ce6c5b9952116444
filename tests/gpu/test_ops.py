"""On a GPU: each op is as near to the formula in fp64 as plain operations are, at sizes of real models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from tests.errors_of_kernels import compare, outputs_and_gradients
from tests.formulas import plain_add_rms_norm, plain_glu, plain_rms_norm, plain_rope
from torch import Tensor
from torch.nn import functional

from siredon.hardware import GPU
from siredon.ops.glu import ACTIVATIONS, glu, glu_backward
from siredon.ops.layer_norm import layer_norm
from siredon.ops.rms_norm import add_rms_norm, rms_norm
from siredon.ops.rope import rope

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

EPS = 1e-5
FORMATS = [torch.bfloat16, torch.float16, torch.float32]
KINDS = [{"rounds_first": True}, {"rounds_first": False, "offset": 1.0}]


def make(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    generator = torch.Generator(GPU).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=GPU).to(dtype)


def angles(batch: int, length: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    positions = torch.arange(length, device=GPU) + torch.arange(batch, device=GPU)[:, None] * 3
    angle = positions[..., None] * 10000.0 ** -(torch.arange(size // 2, device=GPU) / (size // 2))
    both = torch.cat((angle, angle), dim=-1)
    return both.cos().to(dtype), both.sin().to(dtype)


@pytest.mark.parametrize("kind", KINDS, ids=["llama", "gemma"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    "shape", [(8192, 4096), (3, 1000, 4096), (64 * 1024, 128), (777, 5120), (5, 16384), (1, 7)]
)
def test_rms_norm(kind: dict[str, Any], dtype: torch.dtype, shape: tuple[int, ...]):
    given = [make(*shape, dtype=dtype), 1 + make(shape[-1], dtype=dtype, seed=1) / 5]
    ours, plain = partial(rms_norm, eps=EPS, **kind), partial(plain_rms_norm, eps=EPS, **kind)
    both = compare(ours, plain, given)
    frozen = compare(ours, plain, given, learned=[True, False])
    # Another grid, the same rows
    assert torch.equal(both[0], frozen[0])


@pytest.mark.parametrize("kind", KINDS, ids=["llama", "gemma"])
@pytest.mark.parametrize("dtype", FORMATS[:2], ids=str)
@pytest.mark.parametrize("shape", [(3, 1000, 4096), (777, 5120)], ids=str)
def test_add_rms_norm(kind: dict[str, Any], dtype: torch.dtype, shape: tuple[int, ...]):
    weight = 1 + make(shape[-1], dtype=dtype, seed=1) / 5
    given = [make(*shape, dtype=dtype), make(*shape, dtype=dtype, seed=2), weight]
    ours, plain = partial(add_rms_norm, eps=EPS, **kind), partial(plain_add_rms_norm, eps=EPS, **kind)
    found = compare(ours, plain, given)
    assert torch.equal(found[1], given[0] + given[1])
    compare(ours, plain, given, learned=[True, True, False])


def test_norms_of_heads_of_a_projection():
    whole = make(3, 1000, 48 * 128)
    heads = whole[..., : 32 * 128].unflatten(-1, (32, 128))
    weight = 1 + make(128, seed=1) / 5
    compare(partial(rms_norm, eps=EPS), partial(plain_rms_norm, eps=EPS), [heads, weight])
    above = make(3, 32, 1000, 128, seed=2).transpose(1, 2)
    ours = partial(rms_norm, weight=weight, eps=EPS)
    found = outputs_and_gradients(ours, [heads], [above], [True])
    dense = outputs_and_gradients(ours, [heads.contiguous()], [above.contiguous()], [True])
    assert all(torch.equal(a, b) for a, b in zip(found, dense, strict=True))


def test_a_weight_in_fp32():
    given = [make(1000, 4096), 1 + make(4096, dtype=torch.float32) / 5]
    assert (
        compare(partial(rms_norm, eps=EPS), partial(plain_rms_norm, eps=EPS), given)[0].dtype == torch.float32
    )


def test_gradients_of_weights_have_the_same_bits_each_time():
    given, above = [make(8192, 4096), make(4096, seed=1)], [make(8192, 4096, seed=2)]
    first, second = (
        outputs_and_gradients(partial(rms_norm, eps=EPS), given, above, [True] * 2) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("heads", "dim", "turned"), [((32, 8), 128, 128), ((14, 2), 64, 64), ((8, 1), 256, 64), ((5, 5), 80, 32)]
)
def test_rope(dtype: torch.dtype, heads: tuple[int, int], dim: int, turned: int):
    q, k = (make(2, 1001, n, dim, dtype=dtype, seed=n).transpose(1, 2) for n in heads)
    found = compare(
        rope, plain_rope, [q, k, *angles(2, 1001, turned, dtype)], learned=[True, True, False, False]
    )
    assert found[0].transpose(1, 2).is_contiguous()
    shared = angles(1, 1001, turned, torch.float32)
    whole = torch.cat((q.transpose(1, 2), k.transpose(1, 2)), dim=2)
    views = (x.transpose(1, 2) for x in whole.split(heads, dim=2))
    for a, b in zip(rope(*views, *shared), rope(q, k, *(x.expand(2, -1, -1) for x in shared)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(2048, 14336), (3, 333, 5123)], ids=str)
def test_glu(activation: str, dtype: torch.dtype, shape: tuple[int, ...]):
    given = [3 * make(*shape, dtype=dtype), make(*shape, dtype=dtype, seed=1)]
    ours = partial(glu, activation=activation)
    found = compare(ours, partial(plain_glu, activation=activation), given)
    gate, up = torch.cat(given, dim=-1).chunk(2, dim=-1)
    assert torch.equal(ours(gate, up), found[0])
    above = make(*shape, dtype=dtype, seed=2)
    apart = glu_backward(gate, up, above, activation, recompute=True)
    over = glu_backward(gate, up, above, activation, recompute=True, inplace=True)
    assert over[0] is gate
    assert all(torch.equal(a, b) for a, b in zip(apart, over, strict=True))
    assert torch.equal(apart[2], found[0])


def norm_of(op: Any, x: Tensor, *parts: Tensor) -> Tensor:
    weight, bias = (*parts, None, None)[:2]
    if op is functional.layer_norm:
        return op(x, x.shape[-1:], weight, bias, EPS)
    return op(x, weight, bias, EPS)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(8192, 4096), (64 * 1024, 128), (777, 5120)], ids=str)
@pytest.mark.parametrize("num_parts", [0, 1, 2])
def test_layer_norm(dtype: torch.dtype, shape: tuple[int, ...], num_parts: int):
    parts: Sequence[Tensor] = [make(shape[-1], dtype=dtype, seed=n) for n in range(num_parts)]
    compare(
        partial(norm_of, layer_norm),
        partial(norm_of, functional.layer_norm),
        [make(*shape, dtype=dtype, seed=9), *parts],
    )
